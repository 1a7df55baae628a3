//! Numbers and percentages (apimachinery `util/intstr`).

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// A number, or a percentage of `total` rounded up or down. `None` for a string that is no percentage.
pub(crate) fn scaled(value: &IntOrString, total: i32, round_up: bool) -> Option<i32> {
    match value {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(text) => {
            let percent: i64 = text.strip_suffix('%')?.parse().ok()?;
            let product = percent * i64::from(total);
            let scaled = if round_up { (product + 99).div_euclid(100) } else { product.div_euclid(100) };
            i32::try_from(scaled).ok()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_round_both_ways() {
        let quarter = IntOrString::String("25%".into());
        assert_eq!((scaled(&quarter, 10, true), scaled(&quarter, 10, false)), (Some(3), Some(2)));
        assert_eq!(scaled(&IntOrString::Int(4), 10, true), Some(4));
        assert_eq!(scaled(&IntOrString::String("x".into()), 10, true), None);
        assert_eq!(scaled(&IntOrString::String("0%".into()), 10, true), Some(0));
    }
}
