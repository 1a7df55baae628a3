//! What functions there are: cel-go's standard ones, its string, list and set extensions, optionals, and Kubernetes'
//! libraries, in the versions that v1.37 has (`apiserver/pkg/cel/environment/base.go`).
//!
//! A line declares overloads: a name, `g` (global) or `m` (member: the first argument is the target), the argument types
//! and the result. Letters A, K and V are type parameters.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use super::types::Type;

/// One way to call a function.
#[derive(Debug)]
pub(super) struct Overload {
    pub member: bool,
    pub args: Vec<Type>,
    pub result: Type,
}

const TABLE: &str = "
!_ g bool -> bool
-_ g int -> int ; g double -> double
@not_strictly_false g bool -> bool
_==_ g A A -> bool
_!=_ g A A -> bool
_<_ g bool bool -> bool ; g int int -> bool ; g int double -> bool ; g int uint -> bool ; g uint uint -> bool ; g uint double -> bool ; g uint int -> bool ; g double double -> bool ; g double int -> bool ; g double uint -> bool ; g string string -> bool ; g bytes bytes -> bool ; g timestamp timestamp -> bool ; g duration duration -> bool
_<=_ g bool bool -> bool ; g int int -> bool ; g int double -> bool ; g int uint -> bool ; g uint uint -> bool ; g uint double -> bool ; g uint int -> bool ; g double double -> bool ; g double int -> bool ; g double uint -> bool ; g string string -> bool ; g bytes bytes -> bool ; g timestamp timestamp -> bool ; g duration duration -> bool
_>_ g bool bool -> bool ; g int int -> bool ; g int double -> bool ; g int uint -> bool ; g uint uint -> bool ; g uint double -> bool ; g uint int -> bool ; g double double -> bool ; g double int -> bool ; g double uint -> bool ; g string string -> bool ; g bytes bytes -> bool ; g timestamp timestamp -> bool ; g duration duration -> bool
_>=_ g bool bool -> bool ; g int int -> bool ; g int double -> bool ; g int uint -> bool ; g uint uint -> bool ; g uint double -> bool ; g uint int -> bool ; g double double -> bool ; g double int -> bool ; g double uint -> bool ; g string string -> bool ; g bytes bytes -> bool ; g timestamp timestamp -> bool ; g duration duration -> bool
_+_ g int int -> int ; g uint uint -> uint ; g double double -> double ; g string string -> string ; g bytes bytes -> bytes ; g list(A) list(A) -> list(A) ; g timestamp duration -> timestamp ; g duration timestamp -> timestamp ; g duration duration -> duration
_-_ g int int -> int ; g uint uint -> uint ; g double double -> double ; g timestamp timestamp -> duration ; g timestamp duration -> timestamp ; g duration duration -> duration
_*_ g int int -> int ; g uint uint -> uint ; g double double -> double
_/_ g int int -> int ; g uint uint -> uint ; g double double -> double
_%_ g int int -> int ; g uint uint -> uint
_[_] g list(A) int -> A ; g map(K,V) K -> V ; g opt(list(V)) int -> opt(V) ; g opt(map(K,V)) K -> opt(V)
_[?_] g list(V) int -> opt(V) ; g opt(list(V)) int -> opt(V) ; g map(K,V) K -> opt(V) ; g opt(map(K,V)) K -> opt(V)
@in g A list(A) -> bool ; g K map(K,V) -> bool
size g string -> int ; g bytes -> int ; g list(A) -> int ; g map(K,V) -> int ; m string -> int ; m bytes -> int ; m list(A) -> int ; m map(K,V) -> int
contains m string string -> bool
endsWith m string string -> bool
startsWith m string string -> bool
matches g string string -> bool ; m string string -> bool
type g A -> type
dyn g A -> dyn
bool g bool -> bool ; g string -> bool
bytes g bytes -> bytes ; g string -> bytes
double g double -> double ; g int -> double ; g uint -> double ; g string -> double
int g int -> int ; g uint -> int ; g double -> int ; g string -> int ; g timestamp -> int ; g duration -> int
uint g uint -> uint ; g int -> uint ; g double -> uint ; g string -> uint
string g string -> string ; g bool -> string ; g bytes -> string ; g double -> string ; g int -> string ; g uint -> string ; g timestamp -> string ; g duration -> string ; g net.IP -> string ; g net.CIDR -> string
timestamp g timestamp -> timestamp ; g int -> timestamp ; g string -> timestamp
duration g duration -> duration ; g string -> duration
getFullYear m timestamp -> int ; m timestamp string -> int
getMonth m timestamp -> int ; m timestamp string -> int
getDayOfYear m timestamp -> int ; m timestamp string -> int
getDayOfMonth m timestamp -> int ; m timestamp string -> int
getDate m timestamp -> int ; m timestamp string -> int
getDayOfWeek m timestamp -> int ; m timestamp string -> int
getHours m timestamp -> int ; m timestamp string -> int ; m duration -> int
getMinutes m timestamp -> int ; m timestamp string -> int ; m duration -> int
getSeconds m timestamp -> int ; m timestamp string -> int ; m duration -> int
getMilliseconds m timestamp -> int ; m timestamp string -> int ; m duration -> int
optional.of g V -> opt(V)
optional.ofNonZeroValue g V -> opt(V)
optional.none g -> opt(V)
optional.unwrap g list(opt(V)) -> list(V)
unwrapOpt m list(opt(V)) -> list(V)
value m opt(V) -> V
hasValue m opt(V) -> bool
or m opt(V) opt(V) -> opt(V)
orValue m opt(V) V -> V
first m list(V) -> opt(V)
last m list(V) -> opt(V)
cel.@mapInsert g map(K,V) map(K,V) -> map(K,V) ; g map(K,V) K V -> map(K,V)
charAt m string int -> string
indexOf m string string -> int ; m string string int -> int ; m list(A) A -> int
lastIndexOf m string string -> int ; m string string int -> int ; m list(A) A -> int
join m list(string) -> string ; m list(string) string -> string
lowerAscii m string -> string
upperAscii m string -> string
replace m string string string -> string ; m string string string int -> string
split m string string -> list(string) ; m string string int -> list(string)
substring m string int -> string ; m string int int -> string
trim m string -> string
format m string list(dyn) -> string
strings.quote g string -> string
slice m list(A) int int -> list(A)
flatten m list(list(A)) -> list(A) ; m list(dyn) int -> list(dyn)
sort m list(int) -> list(int) ; m list(uint) -> list(uint) ; m list(double) -> list(double) ; m list(bool) -> list(bool) ; m list(duration) -> list(duration) ; m list(timestamp) -> list(timestamp) ; m list(string) -> list(string) ; m list(bytes) -> list(bytes)
@sortByAssociatedKeys g list(A) list(int) -> list(A) ; g list(A) list(uint) -> list(A) ; g list(A) list(double) -> list(A) ; g list(A) list(bool) -> list(A) ; g list(A) list(duration) -> list(A) ; g list(A) list(timestamp) -> list(A) ; g list(A) list(string) -> list(A) ; g list(A) list(bytes) -> list(A)
lists.range g int -> list(int)
reverse m list(A) -> list(A)
distinct m list(A) -> list(A)
sets.contains g list(A) list(A) -> bool
sets.equivalent g list(A) list(A) -> bool
sets.intersects g list(A) list(A) -> bool
isSorted m list(int) -> bool ; m list(uint) -> bool ; m list(double) -> bool ; m list(bool) -> bool ; m list(duration) -> bool ; m list(timestamp) -> bool ; m list(string) -> bool ; m list(bytes) -> bool
sum m list(int) -> int ; m list(uint) -> uint ; m list(double) -> double ; m list(duration) -> duration
max m list(int) -> int ; m list(uint) -> uint ; m list(double) -> double ; m list(bool) -> bool ; m list(duration) -> duration ; m list(timestamp) -> timestamp ; m list(string) -> string ; m list(bytes) -> bytes
min m list(int) -> int ; m list(uint) -> uint ; m list(double) -> double ; m list(bool) -> bool ; m list(duration) -> duration ; m list(timestamp) -> timestamp ; m list(string) -> string ; m list(bytes) -> bytes
includes m dyn dyn -> bool
find m string string -> string
findAll m string string -> list(string) ; m string string int -> list(string)
url g string -> kubernetes.URL
isURL g string -> bool
getScheme m kubernetes.URL -> string
getHost m kubernetes.URL -> string
getHostname m kubernetes.URL -> string
getPort m kubernetes.URL -> string
getEscapedPath m kubernetes.URL -> string
getQuery m kubernetes.URL -> map(string,list(string))
quantity g string -> kubernetes.Quantity
isQuantity g string -> bool
sign g kubernetes.Quantity -> int
isGreaterThan m kubernetes.Quantity kubernetes.Quantity -> bool ; m kubernetes.Semver kubernetes.Semver -> bool
isLessThan m kubernetes.Quantity kubernetes.Quantity -> bool ; m kubernetes.Semver kubernetes.Semver -> bool
compareTo m kubernetes.Quantity kubernetes.Quantity -> int ; m kubernetes.Semver kubernetes.Semver -> int
asApproximateFloat m kubernetes.Quantity -> double
asInteger m kubernetes.Quantity -> int
isInteger m kubernetes.Quantity -> bool
add m kubernetes.Quantity kubernetes.Quantity -> kubernetes.Quantity ; m kubernetes.Quantity int -> kubernetes.Quantity
sub m kubernetes.Quantity kubernetes.Quantity -> kubernetes.Quantity ; m kubernetes.Quantity int -> kubernetes.Quantity
semver g string -> kubernetes.Semver ; g string bool -> kubernetes.Semver
isSemver g string -> bool ; g string bool -> bool
major m kubernetes.Semver -> int
minor m kubernetes.Semver -> int
patch m kubernetes.Semver -> int
ip g string -> net.IP ; m net.CIDR -> net.IP
ip.isCanonical g string -> bool
isIP g string -> bool
family m net.IP -> int
isUnspecified m net.IP -> bool
isLoopback m net.IP -> bool
isLinkLocalMulticast m net.IP -> bool
isLinkLocalUnicast m net.IP -> bool
isGlobalUnicast m net.IP -> bool
cidr g string -> net.CIDR
isCIDR g string -> bool
containsIP m net.CIDR string -> bool ; m net.CIDR net.IP -> bool
containsCIDR m net.CIDR string -> bool ; m net.CIDR net.CIDR -> bool
prefixLength m net.CIDR -> int
masked m net.CIDR -> net.CIDR
format.named g string -> opt(kubernetes.NamedFormat)
format.dns1123Label g -> kubernetes.NamedFormat
format.dns1123Subdomain g -> kubernetes.NamedFormat
format.dns1035Label g -> kubernetes.NamedFormat
format.qualifiedName g -> kubernetes.NamedFormat
format.dns1123LabelPrefix g -> kubernetes.NamedFormat
format.dns1123SubdomainPrefix g -> kubernetes.NamedFormat
format.dns1035LabelPrefix g -> kubernetes.NamedFormat
format.labelValue g -> kubernetes.NamedFormat
format.uri g -> kubernetes.NamedFormat
format.uuid g -> kubernetes.NamedFormat
format.byte g -> kubernetes.NamedFormat
format.date g -> kubernetes.NamedFormat
format.datetime g -> kubernetes.NamedFormat
validate m kubernetes.NamedFormat string -> opt(list(string))
path m kubernetes.authorization.Authorizer string -> kubernetes.authorization.PathCheck
group m kubernetes.authorization.Authorizer string -> kubernetes.authorization.GroupCheck
serviceAccount m kubernetes.authorization.Authorizer string string -> kubernetes.authorization.Authorizer
resource m kubernetes.authorization.GroupCheck string -> kubernetes.authorization.ResourceCheck
subresource m kubernetes.authorization.ResourceCheck string -> kubernetes.authorization.ResourceCheck
namespace m kubernetes.authorization.ResourceCheck string -> kubernetes.authorization.ResourceCheck
name m kubernetes.authorization.ResourceCheck string -> kubernetes.authorization.ResourceCheck
fieldSelector m kubernetes.authorization.ResourceCheck string -> kubernetes.authorization.ResourceCheck
labelSelector m kubernetes.authorization.ResourceCheck string -> kubernetes.authorization.ResourceCheck
check m kubernetes.authorization.PathCheck string -> kubernetes.authorization.Decision ; m kubernetes.authorization.ResourceCheck string -> kubernetes.authorization.Decision
errored m kubernetes.authorization.Decision -> bool
error m kubernetes.authorization.Decision -> string
allowed m kubernetes.authorization.Decision -> bool
reason m kubernetes.authorization.Decision -> string
jsonpatch.escapeKey g string -> string
";

/// All functions by name.
static FUNCTIONS: LazyLock<HashMap<&'static str, Vec<Overload>>> = LazyLock::new(|| {
    let mut all: HashMap<&'static str, Vec<Overload>> = HashMap::new();
    for line in TABLE.lines().filter(|line| !line.is_empty()) {
        let Some((name, overloads)) = line.split_once(' ') else { continue };
        let overloads = overloads.split(" ; ").map(|text| overload(text.trim()));
        all.entry(name).or_default().extend(overloads);
    }
    all
});

fn overload(text: &'static str) -> Overload {
    let (args, result) = text.split_once("->").unwrap_or((text, "dyn"));
    let mut words = args.split_whitespace();
    let member = words.next() == Some("m");
    Overload { member, args: words.map(type_of).collect(), result: type_of(result.trim()) }
}

fn type_of(text: &'static str) -> Type {
    let inner = |prefix: &str| text.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(')'));
    if let Some(item) = inner("list(") {
        return Type::List(Arc::new(type_of(item)));
    }
    if let Some(item) = inner("opt(") {
        return Type::Optional(Arc::new(type_of(item)));
    }
    if let Some((key, value)) = inner("map(").and_then(|pair| pair.split_once(',')) {
        return Type::Map(Arc::new(type_of(key)), Arc::new(type_of(value)));
    }
    match text {
        "dyn" => Type::Dyn,
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "timestamp" => Type::Timestamp,
        "duration" => Type::Duration,
        "type" => Type::Type,
        "A" | "K" | "V" => Type::Param(text),
        named => Type::Named(named),
    }
}

/// The overloads of a function; `None` if there is none of this name.
pub(super) fn overloads(name: &str) -> Option<&'static [Overload]> {
    FUNCTIONS.get(name).map(Vec::as_slice)
}

/// The name as it is in the table.
pub(super) fn interned(name: &str) -> Option<&'static str> {
    FUNCTIONS.get_key_value(name).map(|(name, _)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_reads() {
        let check = |name: &str, want: &str| {
            let found: Vec<String> = overloads(name)
                .unwrap_or_default()
                .iter()
                .map(|o| {
                    format!(
                        "{}{:?}->{}",
                        if o.member { "m" } else { "g" },
                        o.args.iter().map(ToString::to_string).collect::<Vec<_>>(),
                        o.result
                    )
                })
                .collect();
            assert_eq!(found.join(" "), want);
        };
        check("getQuery", "m[\"kubernetes.URL\"]->map(string, list(string))");
        check("optional.none", "g[]->optional_type(V)");
        check(
            "_[?_]",
            "g[\"list(V)\", \"int\"]->optional_type(V) g[\"optional_type(list(V))\", \"int\"]->optional_type(V) g[\"map(K, V)\", \"K\"]->optional_type(V) g[\"optional_type(map(K, V))\", \"K\"]->optional_type(V)",
        );
    }
}
