#!/usr/bin/env python3
"""cel.py STOCK-KUBECONFIG OUR-KUBECONFIG [-n N] [-s SEED] [-k REGEX] [-v]: generated CEL expressions on both servers: N of every type of result, nested at random, some of
them of wrong types. Each is a rule of a definition and the message of that rule shows its value and type, so what is compared is whether and why it does not compile, what
it costs, why it fails, and what comes out. Ends with 1 if there are differences."""
import argparse, collections, json, os, random, re, sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from server import Server

GROUP = "cel.judge.example.com"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
STR = {"type": "string", "maxLength": 30}
SCHEMA = {"type": "object", "properties": {
    "s": STR, "t": STR, "i": {"type": "integer"}, "j": {"type": "integer", "format": "int32"}, "n": {"type": "number"}, "b": {"type": "boolean"},
    "l": {"type": "array", "items": STR, "maxItems": 5}, "li": {"type": "array", "items": {"type": "integer"}, "maxItems": 5},
    "set": {"type": "array", "items": STR, "maxItems": 5, "x-kubernetes-list-type": "set"},
    "lm": {"type": "array", "maxItems": 5, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": {"type": "object", "required": ["k"], "properties": {"k": STR, "v": {"type": "integer"}}}},
    "m": {"type": "object", "additionalProperties": STR, "maxProperties": 5}, "o": {"type": "object", "properties": {"x": STR, "y": {"type": "integer"}, "in": STR, "a-b": STR, "a.b": STR, "__u": STR}},
    "d": {"type": "string", "format": "date-time"}, "day": {"type": "string", "format": "date"}, "du": {"type": "string", "format": "duration"}, "by": {"type": "string", "format": "byte", "maxLength": 30},
    "ios": {"x-kubernetes-int-or-string": True}, "any": {"x-kubernetes-preserve-unknown-fields": True}, "nul": {"type": "string", "nullable": True, "maxLength": 9}, "none": STR}}
OBJECT = {"s": "Ab-c é", "t": "a,b,,c", "i": 7, "j": -3, "n": 2.5, "b": True, "l": ["b", "a", "b", ""], "li": [3, 1, 2], "set": ["q", "p"], "lm": [{"k": "x", "v": 1}, {"k": "y"}],
          "m": {"k1": "v1", "a-b": "v2"}, "o": {"x": "X", "y": 5, "in": "kw", "a-b": "dash", "a.b": "dot", "__u": "under"}, "d": "2024-02-29T23:59:59.5+02:00", "day": "2024-02-29", "du": "1h1.5s", "by": "aGk=",
          "ios": 5, "any": {"deep": [1, "two"]}, "nul": None}

# Differences with a reason: expressions for the expression, for both answers ("STOCK / OURS"), and the reason.
EXPLAINED = [
    (r"(self\.m|\{'k1': 'x', 'k2': 'y'\}|transformMap(Entry)?\(.*\))\.(transformList|map)\(", r"list .* / list ", "the order of Go's maps"),
    (r"", r"contributed to estimated rule cost total", "which of several rules of one cost are named as the dearest"),
    (r"", r"internal error: interface conversion", "an error in a list, over which upstream's own functions fail"),
    (r"", r"type\([\w.(), ]+\)", "messages that name the parameter of a type's type"),
    (r"sub\(\(?-9223372036854775808|sub\(quantity", r"Quantity", "upstream's negation of the smallest number overflows"),
    (r"(\[\]|\{\})\.", r"bytes|double", "which of a function's types an empty list's elements become"),
    (r"quantity\(", r"Quantity \[(-?\d), false, (-?[\d.]+)\] / kubernetes.Quantity \[\1, true, \2\]", "whether a whole number is told to be one depends on how upstream has it stored: after a fraction it may not be"),
    (r"asApproximateFloat", r"double", "the last digit depends on how upstream has a quantity stored"),
    (r"(ip|cidr|quantity|semver|url)\(.* == |\{(quantity|ip|cidr)\(", r"no such overload|unsupported key type", "Kubernetes' own types do not compare with others, and may be keys"),
]

# Literals and what makes a value of a type from values of others: {T} stands for such.
G = {
    "bool": ["true", "false", "self.b", "{int} < {int}", "{double} >= {double}", "{string} <= {string}", "{any} == {any}", "{string} != {string}", "!{bool}", "{bool} && {bool}", "{bool} || {bool}", "{bool} ? {bool} : {bool}", "{int} < {double}", "{uint} > {int}",
             "{string}.contains({string})", "{string}.startsWith({string})", "{string}.endsWith({string})", "{string}.matches({regex})", "matches({string}, {regex})", "{string} in {strings}", "{int} in {ints}", "{string} in {map}", "has(self.{field})", "has(self.o.{member})",
             "{strings}.all(x, x != {string})", "{strings}.exists(x, x == {string})", "{ints}.exists_one(x, x > {int})", "{ints}.all(i, x, x >= i)", "{map}.exists(k, k == {string})", "{map}.all(k, v, k != v)", "{map}.exists_one(k, v, v == {string})", "{ints}.exists(i, v, i == v)",
             "isIP({ipText})", "ip.isCanonical({ipText})", "{ip}.isUnspecified()", "{ip}.isLoopback()", "{ip}.isLinkLocalMulticast()", "{ip}.isLinkLocalUnicast()", "{ip}.isGlobalUnicast()", "isCIDR({cidrText})", "{cidr}.containsIP({ipText})", "{cidr}.containsIP({ip})", "{cidr}.containsCIDR({cidrText})", "{cidr}.containsCIDR({cidr})",
             "isURL({urlText})", "isQuantity({quantityText})", "{quantity}.isGreaterThan({quantity})", "{quantity}.isLessThan({quantity})", "{quantity} == {quantity}", "{quantity}.isInteger()", "isSemver({semverText})", "isSemver({semverText}, {bool})", "{semver}.isLessThan({semver})", "{semver}.isGreaterThan({semver})",
             "sets.contains({ints}, {ints})", "sets.intersects({strings}, {strings})", "sets.equivalent({ints}, {ints})", "{ints}.isSorted()", "{strings}.isSorted()", "{timestamp} < {timestamp}", "{duration} >= {duration}", "{bytes} < {bytes}", "bool({string})", "bool({boolText})", "{opt}.hasValue()", "{opt} == {opt}",
             "{type} == {type}", "{format}.validate({string}).hasValue()", "{cidr} == {cidr}", "{ip} == {ip}", "{url} == {url}", "{strings} == {strings}", "{map} == {map}", "{double} == {int}", "cel.bind(v, {int}, v == v)", "{any} in {list}"],
    "int": ["0", "1", "-1", "7", "2", "3", "9223372036854775807", "-9223372036854775808", "0x1F", "-0x10", "self.i", "self.j", "self.o.y", "self.ios", "{int} + {int}", "{int} - {int}", "{int} * {int}", "{int} / {int}", "{int} % {int}", "-{int}", "{bool} ? {int} : {int}", "int({double})", "int({uint})", "int({intText})", "int({timestamp})", "int({duration})",
            "size({string})", "{strings}.size()", "{bytes}.size()", "size({map})", "{string}.indexOf({string})", "{string}.indexOf({string}, {small})", "{string}.lastIndexOf({string})", "{string}.lastIndexOf({string}, {small})", "{ints}[{small}]", "{strings}.indexOf({string})", "{ints}.lastIndexOf({int})", "{ints}.min()", "{ints}.max()", "{ints}.sum()",
            "{timestamp}.getFullYear()", "{timestamp}.getMonth({zone})", "{timestamp}.getDayOfMonth()", "{timestamp}.getDate({zone})", "{timestamp}.getDayOfWeek()", "{timestamp}.getDayOfYear({zone})", "{timestamp}.getHours({zone})", "{timestamp}.getMinutes()", "{timestamp}.getSeconds()", "{timestamp}.getMilliseconds()", "{duration}.getHours()", "{duration}.getMinutes()",
            "{duration}.getSeconds()", "{duration}.getMilliseconds()", "{ip}.family()", "{cidr}.prefixLength()", "{quantity}.sign()", "{quantity}.compareTo({quantity})", "{quantity}.asInteger()", "{semver}.major()", "{semver}.minor()", "{semver}.patch()", "{semver}.compareTo({semver})", "cel.bind(v, {int}, v + v)", "{ints}.first().orValue({int})", "math.abs({int})"],
    "small": ["0", "1", "2", "3", "-1", "10", "4", "self.i", "size({string})"],
    "uint": ["0u", "1u", "18446744073709551615u", "0xFu", "{uint} + {uint}", "{uint} - {uint}", "{uint} * {uint}", "{uint} / {uint}", "{uint} % {uint}", "uint({int})", "uint({double})", "uint({intText})"],
    "double": ["0.0", "1.5", "-2.25", "1e300", "1e-7", "123456789.125", "1e21", "100000.0", "self.n", "{double} + {double}", "{double} - {double}", "{double} * {double}", "{double} / {double}", "-{double}", "double({int})", "double({uint})", "double({doubleText})", "{quantity}.asApproximateFloat()", "[{double}, {double}].sum()", "[{double}, {double}].max()"],
    "string": ["''", "'a'", "'Ab-c é'", "'ÄÖ ß'", "'a,b,c'", "'日本'", "'\\t x \\n'", "'1'", "'a\\'b\"c'", "r'\\d'", "'\\u00e9\\U0001F600'", "self.s", "self.t", "self.o.x", "self.o.__in__", "self.o.a__dash__b", "self.o.a__dot__b", "self.o.__underscores__u", "self.m.k1", "self.m['a-b']", "self.nul", "self.none", "self.l[0]", "{string} + {string}", "string({int})", "string({uint})", "string({double})", "string({bool})",
               "string({bytes})", "string({timestamp})", "string({duration})", "string({string})", "string({ip})", "string({cidr})", "{string}.charAt({small})", "{string}.lowerAscii()", "{string}.upperAscii()", "{string}.trim()", "{string}.replace({string}, {string})", "{string}.replace({string}, {string}, {small})", "{string}.substring({small})", "{string}.substring({small}, {small})",
               "{strings}.join()", "{strings}.join({string})", "{string}.reverse()", "strings.quote({string})", "{string}.find({regex})", "{url}.getScheme()", "{url}.getHost()", "{url}.getHostname()", "{url}.getPort()", "{url}.getEscapedPath()", "{strings}[{small}]", "{map}[{string}]", "{map}.k1", "{strings}.min()", "{strings}.max()", "{bool} ? {string} : {string}",
               "'%s'.format([{any}])", "'%d %s'.format([{int}, {any}])", "'%.3f'.format([{double}])", "'%e'.format([{double}])", "'%x'.format([{int}])", "'%X'.format([{string}])", "'%b %o'.format([{int}, {int}])", "'%f'.format([{double}])", "'%d'.format([{any}])", "'%x'.format([{bytes}])", "'%.0e'.format([{double}])", "'%s%%'.format([{list}])", "jsonpatch.escapeKey({string})", "{opt}.orValue('none')", "self.?none.orValue({string})", "self.m[?{string}].orValue('no')",
               "cel.bind(v, {string}, v + v)", "{format}.validate({string}).orValue([]).join('; ')", "base64.encode({bytes})"],
    "bytes": ["b''", "b'abc'", "b'\\xff\\x00'", "b'é'", "self.by", "bytes({string})", "{bytes} + {bytes}", "base64.decode({string})"],
    "strings": ["[]", "['a', 'b']", "['b', 'a', 'b']", "['é']", "self.l", "self.set", "{string}.split({string})", "{string}.split({string}, {small})", "{string}.findAll({regex})", "{string}.findAll({regex}, {small})", "{strings} + {strings}", "{strings}.filter(x, x != {string})", "{strings}.map(x, x + {string})", "{map}.map(k, k)", "{strings}.map(x, x == {string}, x)", "{strings}.distinct()", "{strings}.reverse()", "{strings}.sort()",
                "{strings}.slice({small}, {small})", "[{string}, {string}]", "{strings}.sortBy(x, x.size())", "{map}.transformList(k, v, k + v)", "{strings}.transformList(i, v, v + string(i))", "{strings}.transformList(i, v, i > 0, v)", "[{strings}, {strings}].flatten()", "self.lm.map(e, e.k)", "[?self.?none, {string}]", "{url}.getQuery()[{string}]"],
    "ints": ["[]", "[1, 2, 3]", "[3, 1, 2, 1]", "[1, {int}]", "self.li", "lists.range({small})", "{ints}.distinct()", "{ints}.reverse()", "{ints}.sort()", "{ints}.slice({small}, {small})", "{ints}.map(x, x * {int})", "{ints}.filter(x, x > {int})", "[[{int}], {ints}].flatten()", "[1, [2, [3]]].flatten({small})", "{ints} + {ints}", "{strings}.map(x, x.size())", "{ints}.sortBy(x, -x)"],
    "map": ["{}", "{'a': 'b'}", "{'k1': 'x', 'k2': 'y'}", "self.m", "{{string}: {string}}", "{strings}.transformMap(i, v, v)", "{map}.transformMap(k, v, v + k)", "{map}.transformMap(k, v, k != {string}, v)", "{strings}.transformMapEntry(i, v, {v: v})", "{url}.getQuery()", "{?'a': self.?none, 'k1': {string}}"],
    "list": ["[1, 'a', 2.0, null, true]", "[{any}, {any}]", "{strings}", "{ints}", "[[1], [2]]", "[{'a': 1}]", "[[1, 2], [3]].flatten()", "[1u, 2, 3.0].distinct()", "[dyn(1), dyn('a')].sort()", "[{type}]", "[{duration}, {duration}].sort()", "[{timestamp}].max()", "[{bool}, {bool}].sort()"],
    "timestamp": ["timestamp('2024-02-29T12:30:15.123456789Z')", "timestamp('0001-01-01T00:00:00Z')", "timestamp('9999-12-31T23:59:59.999999999Z')", "timestamp('1969-12-31T23:59:59-08:00')", "timestamp({int})", "timestamp({timeText})", "self.d", "self.day", "{timestamp} + {duration}", "{duration} + {timestamp}", "{timestamp} - {duration}"],
    "duration": ["duration('1h')", "duration('-1.5s')", "duration('0')", "duration('1h2m3s4ms5us6ns')", "duration('2562047h47m16.854775807s')", "duration({durationText})", "self.du", "{duration} + {duration}", "{duration} - {duration}", "-{duration}", "{timestamp} - {timestamp}"],
    "ip": ["ip({ipText})", "{cidr}.ip()", "ip('10.0.0.1')", "ip('fd00::1')"],
    "cidr": ["cidr({cidrText})", "cidr('10.0.0.0/8')", "cidr('fd00::/64')", "{cidr}.masked()"],
    "url": ["url({urlText})"],
    "quantity": ["quantity({quantityText})", "quantity('1Gi')", "quantity('100m')", "{quantity}.add({quantity})", "{quantity}.sub({quantity})", "{quantity}.add({int})", "{quantity}.sub({int})"],
    "semver": ["semver({semverText})", "semver('1.2.3-rc.1+b')", "semver('2.0.0')", "semver({semverText}, {bool})"],
    "opt": ["optional.none()", "optional.of({string})", "optional.ofNonZeroValue({string})", "self.?s", "self.?none", "self.?o.x", "self.o.?y", "self.?m[{string}]", "{map}[?{string}]", "{strings}[?{small}]", "{opt}.or({opt})", "{opt}.optMap(v, v)", "{opt}.optFlatMap(v, optional.of(v))", "{strings}.first()", "{strings}.last()"],
    "type": ["type({any})", "int", "string", "bool", "list", "map", "bytes", "double", "uint", "null_type", "type", "google.protobuf.Timestamp", "google.protobuf.Duration", "net.IP", "kubernetes.Quantity", "optional_type"],
    "format": ["format.named({formatName}).value()", "format.dns1123Label()", "format.dns1123Subdomain()", "format.dns1035Label()", "format.qualifiedName()", "format.dns1123LabelPrefix()", "format.dns1123SubdomainPrefix()", "format.dns1035LabelPrefix()", "format.labelValue()", "format.uri()", "format.uuid()", "format.byte()", "format.date()", "format.datetime()"],
    "any": ["{bool}", "{int}", "{uint}", "{double}", "{string}", "{bytes}", "{strings}", "{ints}", "{map}", "{timestamp}", "{duration}", "{ip}", "{cidr}", "{quantity}", "{semver}", "{opt}", "{type}", "null", "self.any", "self.ios", "self.nul", "dyn({int})", "dyn({string})", "self.lm", "self.o", "{list}", "self.any.deep[1]"],
    "field": ["s", "none", "nul", "o", "l", "any", "nope"], "member": ["x", "y", "__in__", "none", "nope"],
    "regex": ["'a'", "'^[a-z]+$'", "r'\\d+'", "r'\\w'", "r'\\bA'", "'(a|b)*'", "'(?i)AB'", "'[[:alpha:]]+'", "'.*'", "'['", "'(a'", "'a{2,1}'", "'(?P<n>a)'", "'(?<n>a)'", "'\\\\pL+'", "r'^\\s*$'", "'a**'", "''", "'(?=a)'", "r'\\1'", "'x{1001}'", "'.'", "'[^a]'", "'é|A'", "r'\\S+'", "r'[\\w-]+'", "{string}"],
    "intText": ["'1'", "'-7'", "'9223372036854775808'", "' 1'", "'1.0'", "'0x1'", "''", "'+5'", "'1_000'", "'007'", "{string}"], "doubleText": ["'1.5'", "'1e3'", "'NaN'", "'Infinity'", "'-inf'", "'0x1p4'", "''", "'.5'", "'1_0'", "'abc'", "'1e400'", "'+1'"],
    "boolText": ["'true'", "'True'", "'TRUE'", "'t'", "'1'", "'0'", "'yes'", "''", "'tRue'", "'FALSE'", "'f'"],
    "ipText": ["'10.0.0.1'", "'127.0.0.1'", "'0.0.0.0'", "'255.255.255.255'", "'224.0.0.1'", "'169.254.1.1'", "'192.168.001.1'", "'1.2.3'", "'1.2.3.4.5'", "'256.1.1.1'", "'::'", "'::1'", "'fe80::1'", "'fe80::1%eth0'", "'ff02::1'", "'fd00::A'", "'::ffff:1.2.3.4'", "'2001:db8:0:0:0:0:0:1'", "'2001:DB8::1'", "'1::2::3'", "'g::'", "''", "' 1.2.3.4'", "'12345::'", "'1:2:3:4:5:6:7:8:9'", "'1:2:3:4:5:6:7'", "'::1.2.3.4'", "'1.2.3.a'", "'1..2.3'", "':1'", "'1:'", "{string}"],
    "cidrText": ["'10.0.0.0/8'", "'10.1.2.3/8'", "'0.0.0.0/0'", "'10.0.0.0/33'", "'10.0.0.0/08'", "'10.0.0.0/'", "'10.0.0.0'", "'fd00::/64'", "'fd00::1/128'", "'::/129'", "'::ffff:1.2.3.4/120'", "'::ffff:0:0/96'", "'fe80::1%eth0/64'", "'10.0.0.0/-1'", "'10.0.0.0/+8'", "'10.0.0/8'", "'/8'", "''", "'192.168.0.0/16'", "'10.2.0.0/16'", "'1.2.3.4/1a'", "'256.0.0.0/8'", "'10.0.0.0/256'", "'10.0.0.0/1000'"],
    "urlText": ["'https://user:pw@example.com:8080/a%20b/c?x=1&y=2&x=3#f'", "'https://[::1]:80/p'", "'/path/only?q'", "'a b'", "'http://'", "'http://a b/'", "'://x'", "'mailto:a@b'", "'http://example.com:bad/'", "'https://example.com/%zz'", "'https://EXAMPLE.com'", "'//host/p'", "'http://[::1'", "'http://a?x=%zz&y=1'", "'http://a?a=b;c=d'", "'http://a/é?k=é'", "''", "'http://a:'", "'https://example.com/a b'", "'1http://a'", "'http://a/\\u0001'", "'https://a/?x&y=&=z'", "'https://a/?x=a+b%20c'", "'http://a%41b/'", "'http://[fe80::1%25eth0]/'", "'http://a\\\\b/'", "{string}"],
    "quantityText": ["'1'", "'1k'", "'1Ki'", "'100m'", "'1.5Gi'", "'1e3'", "'1E3'", "'-5M'", "'0.1u'", "'1n'", "'0.0000000001'", "'9223372036854775807'", "'9223372036854775808'", "'1e30'", "'1Kii'", "''", "' 1'", "'+1'", "'.5'", "'5.'", "'1 Ki'", "'1Zi'", "'1e'", "'1e-3'", "'12E'", "'0'", "'1.0'", "'abc'", "{string}"],
    "semverText": ["'1.2.3'", "'1.2.3-rc.1+b'", "'v1.2.3'", "'1.2'", "'1'", "'01.2.3'", "'1.2.3-01'", "'1.2.3-'", "'1.2.3+'", "'1.2.3.4'", "'99999999999999999999.0.0'", "'1.2.x'", "''", "' 1.2.3'", "'1.2.3-alpha.beta.1'", "'-1.2.3'", "'1.2.3-a_b'", "'v01.2'", "{string}"],
    "timeText": ["'2024-02-29T00:00:00Z'", "'2023-02-29T00:00:00Z'", "'2024-01-01'", "'2024-01-01T00:00:00'", "'2024-01-01T24:00:00Z'", "'2024-01-01T00:00:60Z'", "'2024-01-01t00:00:00z'", "'2024-01-01 00:00:00Z'", "'2024-01-01T00:00:00.123+05:30'", "'10000-01-01T00:00:00Z'", "'2024-1-1T00:00:00Z'", "'2024-01-01T00:00:00+25:00'", "''", "'0000-01-01T00:00:00Z'", "'2024-01-01T0:00:00Z'", "'2024-01-01T00:00:00,5Z'"],
    "durationText": ["'1h'", "'1.5h'", "'-1m'", "'1d'", "'1'", "''", "'1µs'", "'1us'", "'.5s'", "'1h-1m'", "'+3s'", "'1.s'", "'300000h'", "'2562048h'", "'1s1h'", "'1ns'", "' 1s'", "'0.1ns'", "{string}"],
    "zone": ["'UTC'", "'America/New_York'", "'+05:30'", "'-08:00'", "'Europe/Zurich'", "'Bogus/Zone'", "''", "'05:30'", "'Local'", "'+5'", "{string}"],
    "formatName": ["'dns1123Label'", "'uuid'", "'bogus'", "{string}"],
}
RESULTS = [t for t in G if t not in ("small", "any", "field", "member") and not t.endswith("Text") and t not in ("zone", "formatName", "regex")]


class Maker:
    def __init__(self, rng):
        self.rng = rng

    def make(self, kind, depth):
        rng = self.rng
        if rng.random() < 0.02 and kind not in ("field", "member"):
            kind = rng.choice(RESULTS)
        options = G[kind]
        if depth <= 0:
            options = [o for o in options if not re.search(r"\{[a-zA-Z]+\}", o)] or options
        template = rng.choice(options)
        made = re.sub(r"\{([a-zA-Z]+)\}", lambda m: self.make(m[1], depth - 1) if m[1] in G else m[0], template)
        # Operators need brackets as a part of more.
        return f"({made})" if depth < 3 and re.search(r" (\?|[-+*/%<>=!&|]+|in) ", template) or made.startswith("-") else made


def crd(name, rules):
    root = {"type": "object", "properties": {"spec": dict(SCHEMA, **{"x-kubernetes-validations": rules})}}
    return {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": f"{name}s.{GROUP}"}, "spec": {
        "group": GROUP, "scope": "Cluster", "names": {"plural": name + "s", "kind": name.capitalize()}, "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": root}}]}}


# How values are shown that have no text of their own.
SHOWN = {"ip": "string(@)", "cidr": "string(@)", "url": "[@.getScheme(), @.getHost(), @.getHostname(), @.getPort(), @.getEscapedPath(), '%s'.format([@.getQuery()])]", "format": "@.validate('x y').hasValue()",
         "quantity": "[dyn(@.compareTo(quantity('1'))), dyn(@.isInteger()), dyn(@.asApproximateFloat())]", "semver": "[@.major(), @.minor(), @.patch(), @.compareTo(semver('1.2.3'))]", "opt": "[dyn(@.hasValue()), dyn(@.orValue('none'))]"}


def rule(n, e, kind):
    # What fails tells why as a rule; what does not shows its value as the rule's message.
    return {"rule": f"[dyn({e})].size() == 0", "messageExpression": f"'{n}|%s %s'.format([dyn(type({e})), dyn({SHOWN.get(kind, '@').replace('@', e)})])"}


def causes(answer):
    """The causes of a Status by the number of the rule; those of none under None."""
    found = collections.defaultdict(list)
    for cause in ((answer[1].get("details") or {}).get("causes") or []) if isinstance(answer[1], dict) and answer[1].get("kind") == "Status" else []:
        at = re.search(r"x-kubernetes-validations\[(\d+)\]\.(\w+)", cause.get("field", ""))
        text = re.sub(r'Invalid value: \{"Rule":.*?"OptionalOldSelf":null\}: ', "", cause["message"], flags=re.S)
        # Every expression is checked with a name of its own for the type of self.
        text = re.sub(r"selfType\d+", "object", text)
        found[int(at[1]) if at else None].append((at[2] if at else cause.get("field"), cause["reason"], text))
    return found


class Judge:
    def __init__(self, options):
        self.options, self.sides = options, [Server(options.stock), Server(options.ours)]
        self.counts, self.classes = collections.Counter(), collections.Counter()

    def both(self, *request):
        return [side.ask(*request) for side in self.sides]

    def told(self, expression, stock, ours, what):
        if any(re.search(e, expression) and re.search(t, f"{stock} / {ours}") for e, t, _ in EXPLAINED):
            self.counts["explained"] += 1
            return
        self.counts["differ"] += 1
        print(f"{what}: {expression}\n    stock {stock}\n    ours  {ours}", flush=True)

    def batch(self, name, expressions):
        self.counts["expressions"] += len(expressions)
        rules = [rule(n, e, kind) for n, (e, kind) in enumerate(expressions)]
        expressions = [e for e, _ in expressions]
        stock, ours = self.both("POST", CRDS + "?dryRun=All", crd(name, rules))
        refused = [causes(stock), causes(ours)]
        good = []
        for n, e in enumerate(expressions):
            a, b = (sorted(r.get(n, [])) for r in refused)
            if a != b:
                self.told(e, a, b, "compile")
            if not a and not b:
                good.append(n)
            else:
                self.counts["do not compile"] += 1
        if refused[0].get(None) != refused[1].get(None):
            self.told(name, refused[0].get(None), refused[1].get(None), "definition")
        if not good:
            return
        made = self.both("POST", CRDS, crd(name, [rules[n] for n in good]))
        if [a[0] for a in made] != [201, 201]:
            self.told(name, *(a[:2] for a in made), "definition")
        else:
            answers = []
            for side in self.sides:
                for _ in range(400):
                    answer = side.ask("POST", f"/apis/{GROUP}/v1/{name}s?dryRun=All", {"apiVersion": GROUP + "/v1", "kind": name.capitalize(), "metadata": {"name": "x"}, "spec": OBJECT})
                    if answer[0] != 404:
                        break
                answers.append(answer)
            results = []
            for answer in answers:
                texts = [c["message"] for c in (answer[1].get("details") or {}).get("causes") or []] if isinstance(answer[1], dict) else [str(answer)]
                by = {}
                for text in texts:
                    shown = re.search(r": (\d+)\|(.*)$", text, re.S)
                    if shown:
                        by[int(shown[1])] = shown[2]
                        continue
                    # Errors name the rule.
                    for n in good:
                        if rules[n]["rule"] in text or json.dumps(rules[n]["rule"])[1:-1] in text:
                            by[n] = text.replace(rules[n]["rule"], "E")
                            break
                    else:
                        by.setdefault("rest", []).append(text)
                results.append(by)
            for n in good + ["rest"]:
                a, b = (r.get(n) for r in results)
                self.counts["fail" if isinstance(a, str) and "E" in a[:400] and "rule" in a else "values"] += n != "rest"
                if a != b:
                    self.told(expressions[n] if n != "rest" else name, a, b, "result")
        self.both("DELETE", f"{CRDS}/{name}s.{GROUP}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("stock"), parser.add_argument("ours")
    parser.add_argument("-n", type=int, default=60)
    parser.add_argument("-s", "--seed", type=int, default=1)
    parser.add_argument("-k", default="")
    parser.add_argument("-v", action="store_true")
    options = parser.parse_args()
    judge = Judge(options)
    rng = random.Random(options.seed)
    maker = Maker(rng)
    made, seen = [], set()
    for kind in RESULTS:
        for template in G[kind] + [None] * options.n:
            # Every function once at least, plainly.
            e = re.sub(r"\{([a-zA-Z]+)\}", lambda m: maker.make(m[1], 0) if m[1] in G else m[0], template) if template else maker.make(kind, rng.choice((1, 2, 2, 3)))
            if len(e) < 300 and e not in seen and re.search(options.k, e):
                seen.add(e)
                made.append((e, kind))
    for at in range(0, len(made), 50):
        judge.batch(f"cel{at // 50}x", made[at:at + 50])
    c = judge.counts
    print(f"{c['expressions']} expressions, {c['do not compile']} of them do not compile, {c['fail']} fail: {c['explained']} differ with a reason, {c['differ']} differ")
    sys.exit(1 if c["differ"] else 0)


if __name__ == "__main__":
    main()
