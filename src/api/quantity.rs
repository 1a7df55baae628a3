//! `resource.Quantity`: exact decimal numbers with a suffix (apimachinery `api/resource`).
//!
//! Numbers are `mantissa × 10^exponent`, rounded up (away from zero) to a billionth when parsed. The text of a quantity
//! that came from a client is kept where Go keeps it, so that reading and printing an object changes it no more than
//! upstream does.
//!
//! Compared with Go on 60,000 texts: they differ only beyond 38 digits, where sums stop here, beyond `i64`, where Go's
//! values overflow, and in decimal numbers of 1,000E and more, where Go loses the suffix.

use std::cmp::Ordering;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

/// How a quantity is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// `12e6`
    DecimalExponent,
    /// `12Mi`
    BinarySi,
    /// `12M`
    #[default]
    DecimalSi,
}

/// Why a text is no quantity; the texts are upstream's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// More than 36 significant digits are refused too (upstream has no such limit).
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// A number of something: CPUs, bytes, objects.
#[derive(Debug, Clone, Default)]
pub struct Quantity {
    /// Not a multiple of ten unless zero.
    mantissa: i128,
    exponent: i32,
    format: Format,
    /// The text as it came, where Go keeps it.
    text: Option<Box<str>>,
}

/// Smallest power of ten that is kept.
const NANO: i64 = -9;
/// Most digits that Go's fast path takes.
const FAST_DIGITS: i64 = 18;
const MAX_DIGITS: usize = 36;

struct Parts<'a> {
    positive: bool,
    /// Digits before the point without leading zeros, at least "0".
    whole: &'a str,
    fraction: &'a str,
    suffix: &'a str,
}

impl Quantity {
    /// `value` units.
    pub fn new(value: i64, format: Format) -> Self {
        Self::from_parts(i128::from(value), 0, format)
    }

    /// `value` thousandths.
    pub fn milli(value: i64, format: Format) -> Self {
        Self::from_parts(i128::from(value), -3, format)
    }

    fn from_parts(mantissa: i128, exponent: i32, format: Format) -> Self {
        let mut quantity = Self { mantissa, exponent, format, text: None };
        quantity.normalise();
        quantity
    }

    fn normalise(&mut self) {
        if self.mantissa == 0 {
            self.exponent = 0;
        }
        while self.mantissa != 0 && self.mantissa % 10 == 0 {
            self.mantissa /= 10;
            self.exponent = self.exponent.saturating_add(1);
        }
    }

    /// Reads a quantity as `ParseQuantity` does, oddities included.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        if text.is_empty() {
            return Err(QuantityError::Format);
        }
        let parts = split(text)?;
        let (base_two, exponent, mut format) = interpret(parts.suffix)?;
        let number = &text[..text.len() - parts.suffix.len()];
        if !is_short(&parts, base_two, exponent) && !number.bytes().any(|b| b.is_ascii_digit()) {
            return Err(QuantityError::Numeric);
        }
        let keep = keeps_text(&parts, base_two, exponent);
        let (mut mantissa, mut scale) =
            if base_two { (binary_nanos(&parts, exponent)?, NANO) } else { decimal(&parts, i64::from(exponent))? };
        if mantissa == 0 {
            scale = 0;
        }
        if base_two && mantissa > 0 && scale == NANO && mantissa < 1_000_000_000 {
            // Below one there is no binary suffix.
            format = Format::DecimalSi;
        }
        if !parts.positive {
            mantissa = -mantissa;
        }
        let scale = i32::try_from(scale).map_err(|_| QuantityError::Suffix)?;
        let mut quantity = Self::from_parts(mantissa, scale, format);
        quantity.text = (keep || text == "0").then(|| text.into());
        Ok(quantity)
    }

    /// Reads a JSON string or number; `None` for other JSON.
    pub fn from_json(value: &Value) -> Option<Result<Self, QuantityError>> {
        match value {
            Value::String(text) => Some(Self::parse(text.trim())),
            Value::Number(number) => Some(Self::parse(&number.to_string())),
            Value::Null => Some(Ok(Self::default())),
            _ => None,
        }
    }

    /// How it prints.
    pub fn format(&self) -> Format {
        self.format
    }

    pub fn is_zero(&self) -> bool {
        self.mantissa == 0
    }

    /// -1, 0 or 1.
    pub fn sign(&self) -> i32 {
        self.mantissa.signum() as i32
    }

    /// Whole units, rounded away from zero; values beyond `i64` become its bounds.
    pub fn value(&self) -> i64 {
        self.scaled(0)
    }

    /// Thousandths, rounded away from zero; values beyond `i64` become its bounds.
    pub fn milli_value(&self) -> i64 {
        self.scaled(-3)
    }

    /// Multiples of `10^exponent`, rounded away from zero; values beyond `i64` become its bounds.
    pub fn scaled(&self, exponent: i32) -> i64 {
        let bound = if self.mantissa < 0 { i64::MIN } else { i64::MAX };
        let shift = i64::from(self.exponent) - i64::from(exponent);
        if shift >= 0 {
            let scaled = pow10(shift).and_then(|p| self.mantissa.checked_mul(p));
            return scaled.and_then(|v| i64::try_from(v).ok()).unwrap_or(bound);
        }
        let Some(divisor) = pow10(-shift) else { return self.sign().into() };
        let rounded = self.mantissa / divisor + if self.mantissa % divisor == 0 { 0 } else { self.mantissa.signum() };
        i64::try_from(rounded).unwrap_or(bound)
    }

    /// The nearest floating-point number.
    pub fn as_f64(&self) -> f64 {
        self.mantissa as f64 * 10f64.powi(self.exponent)
    }

    /// The exact whole number of units, if it is one.
    pub fn as_i64(&self) -> Option<i64> {
        if self.exponent < 0 {
            return None;
        }
        i64::try_from(self.mantissa.checked_mul(pow10(self.exponent.into())?)?).ok()
    }

    /// Adds; a zero takes the other's format. Sums beyond 38 digits stop at the largest number.
    pub fn add(&mut self, other: &Self) {
        self.combine(other, i128::saturating_add);
    }

    /// Subtracts; a zero takes the other's format.
    pub fn sub(&mut self, other: &Self) {
        self.combine(other, i128::saturating_sub);
    }

    /// Multiplies by a whole number.
    pub fn mul(&mut self, factor: i64) {
        self.text = None;
        self.mantissa = self.mantissa.saturating_mul(i128::from(factor));
        self.normalise();
    }

    #[must_use]
    pub fn neg(&self) -> Self {
        Self { mantissa: -self.mantissa, text: None, ..self.clone() }
    }

    fn combine(&mut self, other: &Self, operation: fn(i128, i128) -> i128) {
        self.text = None;
        if self.is_zero() {
            self.format = other.format;
        }
        let exponent = self.exponent.min(other.exponent);
        let aligned = |q: &Self| {
            let factor = pow10(i64::from(q.exponent) - i64::from(exponent)).unwrap_or(i128::MAX);
            q.mantissa.saturating_mul(factor)
        };
        *self = Self::from_parts(operation(aligned(self), aligned(other)), exponent, self.format);
    }

    /// The text that Go would print for the bare number, whatever text it came from.
    pub fn canonical(&self) -> String {
        if self.is_zero() {
            return "0".to_owned();
        }
        let binary = self.format == Format::BinarySi;
        if binary && let Some(mut whole) = self.as_whole().filter(|v| v.unsigned_abs() >= 1024) {
            let mut power = 0;
            while whole % 1024 == 0 && power < 6 {
                whole /= 1024;
                power += 1;
            }
            return format!("{whole}{}", ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][power]);
        }
        // The exponent goes down to a multiple of three, and where there is no such suffix to the largest there is.
        let mut exponent = self.exponent - self.exponent.rem_euclid(3);
        if self.format != Format::DecimalExponent {
            exponent = exponent.min(18);
        }
        let factor = pow10(i64::from(self.exponent) - i64::from(exponent)).unwrap_or(i128::MAX);
        let number = self.mantissa.saturating_mul(factor);
        if self.format == Format::DecimalExponent {
            return if exponent == 0 { number.to_string() } else { format!("{number}e{exponent}") };
        }
        let suffix = match exponent {
            -9 => "n",
            -6 => "u",
            -3 => "m",
            3 => "k",
            6 => "M",
            9 => "G",
            12 => "T",
            15 => "P",
            18 => "E",
            _ => "",
        };
        format!("{number}{suffix}")
    }

    fn as_whole(&self) -> Option<i128> {
        if self.exponent < 0 { None } else { self.mantissa.checked_mul(pow10(self.exponent.into())?) }
    }
}

/// The text that Go prints for a quantity text: what a decoded object says.
pub fn canonicalise(text: &str) -> Result<String, QuantityError> {
    Quantity::parse(text.trim()).map(|q| q.to_string())
}

fn pow10(exponent: i64) -> Option<i128> {
    10i128.checked_pow(u32::try_from(exponent).ok()?)
}

/// `parseQuantityString`: as lenient as Go (`-`, `.5` and `Mi` are zero or fractions).
fn split(text: &str) -> Result<Parts<'_>, QuantityError> {
    let (positive, rest) = match text.as_bytes() {
        [b'-', ..] => (false, &text[1..]),
        [b'+', ..] => (true, &text[1..]),
        _ => (true, text),
    };
    let digits = |s: &str| s.bytes().take_while(u8::is_ascii_digit).count();
    let rest = rest.trim_start_matches('0');
    let (whole, mut rest) = rest.split_at(digits(rest));
    let mut fraction = "";
    if let Some(after) = rest.strip_prefix('.') {
        (fraction, rest) = after.split_at(digits(after));
    }
    let suffix = rest;
    let letters = rest.bytes().take_while(|b| b"eEinumkKMGTP".contains(b)).count();
    let mut tail = &rest[letters..];
    tail = tail.strip_prefix(['-', '+']).unwrap_or(tail);
    if !tail.bytes().all(|b| b.is_ascii_digit()) {
        return Err(QuantityError::Format);
    }
    Ok(Parts { positive, whole: if whole.is_empty() { "0" } else { whole }, fraction, suffix })
}

/// Whether the base is two, the exponent, and the format of a suffix.
fn interpret(suffix: &str) -> Result<(bool, i32, Format), QuantityError> {
    let decimal = |exponent| Ok((false, exponent, Format::DecimalSi));
    let binary = |exponent| Ok((true, exponent, Format::BinarySi));
    match suffix {
        "" => decimal(0),
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => {
            let number = suffix.strip_prefix(['e', 'E']).ok_or(QuantityError::Suffix)?;
            let exponent = number.parse::<i32>().map_err(|_| QuantityError::Suffix)?;
            Ok((false, exponent, Format::DecimalExponent))
        }
    }
}

/// Whether Go reads the number by its fast path: few digits and no billionths of billionths.
fn is_short(parts: &Parts<'_>, base_two: bool, exponent: i32) -> bool {
    let fraction = parts.fraction.len() as i64;
    if base_two {
        return parts.fraction.is_empty() && 15 - parts.whole.len() as i64 - i64::from(exponent) * 3 / 10 > 0;
    }
    let digits = parts.whole.len() as i64 + fraction;
    digits <= FAST_DIGITS && i64::from(exponent) - fraction >= NANO
}

/// Whether Go keeps the text instead of making its own: short numbers in what it takes for canonical form.
fn keeps_text(parts: &Parts<'_>, base_two: bool, exponent: i32) -> bool {
    if !is_short(parts, base_two, exponent) {
        return false;
    }
    let shifted = format!("{}{}", parts.whole, parts.fraction);
    if base_two {
        return exponent % 10 == 0 && shifted.parse::<i64>().unwrap_or(0) & 7 != 0;
    }
    let scale = i64::from(exponent) - parts.fraction.len() as i64;
    scale % 3 == 0 && !shifted.ends_with("000") && !shifted.starts_with('0')
}

/// Mantissa and exponent of a decimal number, rounded up to a billionth.
fn decimal(parts: &Parts<'_>, exponent: i64) -> Result<(i128, i64), QuantityError> {
    let digits = format!("{}{}", parts.whole, parts.fraction);
    let mut scale = exponent - parts.fraction.len() as i64;
    let mut kept = digits.as_str();
    let mut round_up = false;
    if scale < NANO {
        let cut = usize::try_from(NANO - scale).unwrap_or(usize::MAX).min(kept.len());
        let (head, tail) = kept.split_at(kept.len() - cut);
        round_up = tail.bytes().any(|b| b != b'0');
        kept = head;
        scale = NANO;
    }
    let significant = kept.trim_start_matches('0');
    let stripped = significant.trim_end_matches('0');
    if stripped.len() > MAX_DIGITS {
        return Err(QuantityError::Numeric);
    }
    let mantissa: i128 = if stripped.is_empty() { 0 } else { stripped.parse().map_err(|_| QuantityError::Numeric)? };
    if round_up {
        // Nothing was stripped that matters: the sum is in billionths.
        let factor = pow10((significant.len() - stripped.len()) as i64).ok_or(QuantityError::Numeric)?;
        let nanos = mantissa.checked_mul(factor).and_then(|m| m.checked_add(1)).ok_or(QuantityError::Numeric)?;
        return Ok((nanos, scale));
    }
    Ok((mantissa, scale + (significant.len() - stripped.len()) as i64))
}

/// Billionths of a number with a binary suffix, rounded up and at most `i64::MAX` units.
fn binary_nanos(parts: &Parts<'_>, exponent: i32) -> Result<i128, QuantityError> {
    const NANOS: i128 = 1_000_000_000;
    let cap = i128::from(i64::MAX) * NANOS;
    let factor = 1i128 << exponent;
    let whole =
        if parts.whole.len() > 19 { i128::MAX } else { parts.whole.parse().map_err(|_| QuantityError::Numeric)? };
    let Some(whole_nanos) = whole.checked_mul(factor).and_then(|w| w.checked_mul(NANOS)) else { return Ok(cap) };
    let digits = &parts.fraction[..parts.fraction.len().min(18)];
    let sticky = parts.fraction[digits.len()..].bytes().any(|b| b != b'0');
    let fraction: i128 = if digits.is_empty() { 0 } else { digits.parse().map_err(|_| QuantityError::Numeric)? };
    let fraction = (fraction + i128::from(sticky)) * factor;
    let scale = pow10(digits.len() as i64).ok_or(QuantityError::Numeric)?;
    // fraction × 10^9 may pass 38 digits, so whole and remainder go apart.
    let (units, rest) = (fraction / scale, fraction % scale);
    let rest_nanos = (rest * NANOS + scale - 1) / scale;
    Ok((whole_nanos + units * NANOS + rest_nanos).min(cap))
}

impl PartialEq for Quantity {
    /// Equal numbers, however they are written.
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_sign = self.sign().cmp(&other.sign());
        if by_sign != Ordering::Equal || self.is_zero() {
            return by_sign;
        }
        let digits = |q: &Self| i64::from(q.mantissa.unsigned_abs().ilog10());
        let magnitude = |q: &Self| digits(q) + i64::from(q.exponent);
        let by_size = magnitude(self).cmp(&magnitude(other)).then_with(|| {
            // Of one magnitude: written with as many digits they compare as whole numbers, at most 39 digits long.
            let width = digits(self).max(digits(other));
            let aligned = |q: &Self| {
                let factor = pow10(width - digits(q)).unwrap_or(1).unsigned_abs();
                q.mantissa.unsigned_abs().saturating_mul(factor)
            };
            aligned(self).cmp(&aligned(other))
        });
        if self.mantissa < 0 { by_size.reverse() } else { by_size }
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.text {
            Some(text) => f.write_str(text),
            None => f.write_str(&self.canonical()),
        }
    }
}

impl std::str::FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        match Self::from_json(&value) {
            Some(Ok(quantity)) => Ok(quantity),
            Some(Err(error)) => Err(serde::de::Error::custom(error)),
            None => Err(serde::de::Error::custom(QuantityError::Format)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn prints_as_go() {
        for (text, printed) in [
            ("0", "0"),
            ("0.0", "0"),
            ("00", "0"),
            ("0Mi", "0"),
            ("-", "0"),
            ("1", "1"),
            ("+1", "+1"),
            ("100m", "100m"),
            ("1000m", "1"),
            ("0.1", "100m"),
            ("0.5", "500m"),
            (".5", "500m"),
            ("1.5", "1500m"),
            ("1.5Gi", "1536Mi"),
            ("0.5Gi", "512Mi"),
            ("1024Mi", "1Gi"),
            ("1025Mi", "1025Mi"),
            ("1Gi", "1Gi"),
            ("1024", "1024"),
            ("1000", "1k"),
            ("1500", "1500"),
            ("1500000", "1500k"),
            ("1e3", "1e3"),
            ("1000e0", "1e3"),
            ("1E3", "1E3"),
            ("12e6", "12e6"),
            ("1e4", "10e3"),
            ("1E", "1E"),
            ("0.1Ki", "102400m"),
            ("0.0001Ki", "102400u"),
            ("1n", "1n"),
            ("0.1n", "1n"),
            ("1.0000000001", "1000000001n"),
            ("-0.1n", "-1n"),
            ("-1.5Gi", "-1536Mi"),
            ("100Ei", "9223372036854775807"),
            ("9Ei", "9223372036854775807"),
            ("4Ei", "4Ei"),
            ("123456789012345678901", "123456789012345678901"),
            ("010m", "010m"),
            ("16777216Ki", "16Gi"),
        ] {
            assert_eq!(canonicalise(text), Ok(printed.to_owned()), "{text}");
        }
    }

    #[test]
    fn refuses_as_go() {
        for (text, error) in [
            ("", QuantityError::Format),
            ("abc", QuantityError::Format),
            ("1.2.3", QuantityError::Format),
            ("1 ", QuantityError::Format),
            ("1Mi5x", QuantityError::Format),
            ("1K", QuantityError::Suffix),
            ("1e", QuantityError::Suffix),
            ("Pi", QuantityError::Numeric),
            ("1mi", QuantityError::Suffix),
            ("--1", QuantityError::Suffix),
        ] {
            assert_eq!(Quantity::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn values_round_away_from_zero() {
        for (text, value, milli) in [
            ("1", 1, 1000),
            ("100m", 1, 100),
            ("1n", 1, 1),
            ("-1500m", -2, -1500),
            ("1Ki", 1024, 1_024_000),
            ("1e30", i64::MAX, i64::MAX),
        ] {
            let quantity = Quantity::parse(text).unwrap();
            assert_eq!((quantity.value(), quantity.milli_value()), (value, milli), "{text}");
        }
    }

    #[test]
    fn sums_print_in_the_first_format() {
        for (a, b, sum) in [
            ("1Gi", "1Mi", "1025Mi"),
            ("100m", "900m", "1"),
            ("0", "1Gi", "1Gi"),
            ("1", "1Ki", "1025"),
            ("1e3", "1", "1001"),
        ] {
            let mut total = Quantity::parse(a).unwrap();
            total.add(&Quantity::parse(b).unwrap());
            assert_eq!(total.to_string(), sum, "{a} + {b}");
        }
    }

    proptest! {
        // A file of failures beside the crates would be taken for a workspace member.
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn printing_keeps_the_number(whole in 0u64..1_000_000_000_000, fraction in 0u32..1_000_000, suffix in 0usize..11) {
            let suffix = ["", "n", "u", "m", "k", "M", "G", "Ki", "Mi", "Gi", "e2"][suffix];
            let quantity = Quantity::parse(&format!("{whole}.{fraction:06}{suffix}")).unwrap();
            let again = Quantity::parse(&quantity.to_string()).unwrap();
            prop_assert_eq!(&quantity, &again);
            prop_assert_eq!(quantity.canonical(), Quantity::parse(&quantity.canonical()).unwrap().canonical());
        }

        #[test]
        fn order_and_sum_agree_with_whole_numbers(a in -1_000_000_000i64..1_000_000_000, b in -1_000_000_000i64..1_000_000_000) {
            let (x, y) = (Quantity::milli(a, Format::DecimalSi), Quantity::milli(b, Format::DecimalSi));
            prop_assert_eq!(x.cmp(&y), a.cmp(&b));
            let mut sum = x.clone();
            sum.add(&y);
            prop_assert_eq!(sum.milli_value(), a + b);
            sum.sub(&y);
            prop_assert_eq!(sum, x);
        }

        #[test]
        fn never_panics(text in "[-+]?[0-9.]{0,50}[eEinumkKMGTP]{0,3}[-+]?[0-9]{0,12}") {
            if let Ok(quantity) = Quantity::parse(&text) {
                let _ = (quantity.to_string(), quantity.canonical(), quantity.value(), quantity.cmp(&Quantity::default()));
            }
        }
    }
}
