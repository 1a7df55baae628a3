//! Expressions and what they are, as cel-go and upstream's own tables of tests have it.

use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::*;

/// The value of an expression without variables, as JSON, or the error's text.
fn run(source: &str) -> Result<Json, String> {
    let program = Env::new().compile(source, &[]).map_err(|e| e.text())?;
    let value = program.evaluate(&Bindings::new(), &mut Budget::new(RUNTIME_BUDGET)).map_err(|e| e.to_string())?;
    value.to_json().map_err(|ty| format!("a {ty}"))
}

fn check_true(sources: &[&str]) {
    for source in sources {
        assert_eq!(run(source), Ok(json!(true)), "{source}");
    }
}

fn check_error(cases: &[(&str, &str)]) {
    for (source, want) in cases {
        let got = run(source).expect_err(source);
        assert!(got.contains(want), "{source}: {got}");
    }
}

#[test]
fn operators_and_literals() {
    check_true(&[
        "1 + 2 * 3 == 7",
        "-5 / 2 == -2 && -5 % 2 == -1",
        "7u / 2u == 3u",
        "1.5 + 1.5 == 3.0",
        "'a' + \"b\" == 'ab'",
        "b'ab' + b'c' == b'abc'",
        "r'\\d' == '\\\\d'",
        "'''a\nb''' == 'a\\nb'",
        "'\\u00e9' == 'é'",
        "[1, 2] + [3] == [1, 2, 3]",
        "{'a': 1}['a'] == 1 && {'a': 1}.a == 1",
        "2 in [1, 2] && 'a' in {'a': 1} && !('b' in {'a': 1})",
        "true ? true : false",
        "dyn(1) == 1.0 && dyn(1u) == 1",
        "1 < 2.5 && 2u > 1",
        "type(1) == int && type('') == string && type([]) == list && type(null) == null_type",
        "(1 / 0 == 1) || true",
        "!(1 / 0 == 1 && false)",
        "size('héé') == 3 && 'abc'.size() == 3 && size([1]) == 1 && size({}) == 0 && size(b'ab') == 2",
        "0x1F == 31 && 1e3 == 1000.0",
        "!!true && - - 1 == 1",
        "string(1.0) == '1' && string(1u) == '1' && int('42') == 42 && double('1.5') == 1.5",
        "string(b'abc') == 'abc' && bytes('é').size() == 2 && bool('true')",
        "[1, 2, 3][1] == 2",
        "'hello'.startsWith('he') && 'hello'.endsWith('lo') && 'hello'.contains('ll')",
        "'hello'.matches('^h.*o$') && matches('hello', 'l+')",
    ]);
}

#[test]
fn macros_and_comprehensions() {
    check_true(&[
        "has({'a': 1}.a) && !has({'a': 1}.b)",
        "[1, 2].all(x, x > 0) && ![1, 2].all(x, x > 1) && [].all(x, false)",
        "[1, 2].exists(x, x == 2) && ![1].exists(x, x == 2)",
        "[1, 2].exists_one(x, x == 2) && ![2, 2].exists_one(x, x == 2)",
        "[1, 2, 3].filter(x, x > 1) == [2, 3]",
        "[1, 2, 3].map(x, x * 2) == [2, 4, 6] && [1, 2, 3].map(x, x > 1, x * 2) == [4, 6]",
        "{'a': 1, 'b': 2}.all(k, k in ['a', 'b']) && {'a': 1}.map(k, k) == ['a']",
        "[[1], [2, 3]].all(l, l.exists(x, x > 0))",
        "[1, 2].all(i, v, i < v)",
        "{'a': 1}.exists(k, v, k == 'a' && v == 1)",
        "[1, 2].transformList(i, v, i + v) == [1, 3]",
        "[1, 2, 3].transformList(i, v, i > 0, v) == [2, 3]",
        "{'a': 1}.transformMap(k, v, v + 1) == {'a': 2}",
        "{'a': 1, 'b': 2}.transformMap(k, v, k == 'a', v + 1) == {'a': 2}",
        "['x', 'y'].transformMapEntry(i, v, {v: i}) == {'x': 0, 'y': 1}",
        "[1 / 1, 2].exists(x, x / (x - 1) == 2)",
    ]);
    check_error(&[
        ("has(1)", "invalid argument to has() macro"),
        ("[1].all(x.y, true)", "argument must be a simple name"),
        ("['a', 'a'].transformMapEntry(i, v, {v: i})", "insert failed: key a already exists"),
    ]);
}

#[test]
fn optionals() {
    check_true(&[
        "{'a': 1}.?a.orValue(2) == 1 && {'a': 1}.?b.orValue(2) == 2",
        "{'a': {'b': 1}}.?a.?b.value() == 1 && !{'a': {'b': 1}}.?x.?b.hasValue()",
        "[1, 2][?1].value() == 2 && ![1][?5].hasValue()",
        "optional.of(1).optMap(x, x + 1).value() == 2 && !optional.none().optMap(x, x).hasValue()",
        "optional.of(1).optFlatMap(x, optional.of(x + 1)).value() == 2",
        "optional.none().or(optional.of(3)).value() == 3",
        "!optional.ofNonZeroValue('').hasValue() && optional.ofNonZeroValue('a').hasValue()",
        "{?'a': optional.of(1), ?'b': optional.none()} == {'a': 1}",
        "[?optional.of(1), ?optional.none()] == [1]",
        "has({'a': {'b': 1}}.?a.b) && !has({'a': dyn(null)}.a.b)",
        "optional.unwrap([optional.of(1), optional.none()]) == [1]",
        "[1, 2].first().value() == 1 && [1, 2].last() == optional.of(2)",
    ]);
    check_error(&[("optional.none().value()", "optional.none() dereference")]);
}

#[test]
fn texts() {
    check_true(&[
        "'hello'.charAt(1) == 'e' && 'héllo'.indexOf('l') == 2 && 'hello'.lastIndexOf('l') == 3",
        "'hello'.indexOf('l', 3) == 3 && 'hello'.indexOf('z') == -1",
        "'a,b'.split(',') == ['a', 'b'] && 'ab'.split('') == ['a', 'b'] && 'a,b,c'.split(',', 2) == ['a', 'b,c']",
        "['a', 'b'].join('-') == 'a-b' && ['a', 'b'].join() == 'ab'",
        "'ABC'.lowerAscii() == 'abc' && 'abc'.upperAscii() == 'ABC' && ' a '.trim() == 'a'",
        "'aaa'.replace('a', 'b') == 'bbb' && 'aaa'.replace('a', 'b', 2) == 'bba'",
        "'hello'.substring(1) == 'ello' && 'hello'.substring(1, 3) == 'el'",
        "'%s is %d, %.2f %x %b %e'.format(['a', 1, 1.005, 255, 5, 1000.0]) == 'a is 1, 1.00 ff 101 1.000000×10⁰³'",
        "'%s'.format([[dyn(1), 'a', {'k': null}]]) == '[1, \"a\", {\"k\":null}]'",
        "strings.quote('a\\n') == '\"a\\\\n\"'",
        "'abc 123'.find('[0-9]+') == '123' && 'a1b2'.findAll('[0-9]') == ['1', '2'] && 'a1b2'.findAll('[0-9]', 1) == ['1']",
    ]);
    check_error(&[
        ("'abc'.charAt(10)", "index out of range: 10"),
        ("'abc'.substring(2, 1)", "invalid substring range. start: 2, end: 1"),
        ("'a'.matches('(')", "invalid matches argument"),
        ("'%d'.format(['a'])", "decimal clause can only be used on integers"),
    ]);
}

#[test]
fn lists_and_sets() {
    check_true(&[
        "[1, 2, 3].isSorted() && ![2, 1].isSorted() && [].isSorted()",
        "[1, 2, 3].sum() == 6 && [1.5, 1.5].sum() == 3.0",
        "[1, 3, 2].max() == 3 && ['b', 'a'].min() == 'a'",
        "[1, 2, 1].indexOf(1) == 0 && [1, 2, 1].lastIndexOf(1) == 2 && [1].indexOf(5) == -1",
        "[1, 2].includes(1) && 'a'.includes('a')",
        "sets.contains([1, 2, 3], [2, 3]) && sets.equivalent([1, 2], [2, 1]) && sets.intersects([1], [1, 2])",
        "[1, 2, 3].slice(1, 3) == [2, 3] && [[1], [2]].flatten() == [1, 2] && [3, 1, 2].sort() == [1, 2, 3]",
        "['bb', 'a'].sortBy(s, s.size()) == ['a', 'bb']",
        "lists.range(3) == [0, 1, 2] && [1, 2].reverse() == [2, 1] && [1, 1, 2].distinct() == [1, 2]",
    ]);
    check_error(&[("dyn([]).min()", "min called on empty list")]);
}

#[test]
fn kubernetes_libraries() {
    check_true(&[
        "quantity('1Gi').isGreaterThan(quantity('1M')) && quantity('50k').add(quantity('1k')) == quantity('51k')",
        "isQuantity('1.3Gi') && !isQuantity('x') && quantity('50').asInteger() == 50 && sign(quantity('-1')) == -1",
        "quantity('1').compareTo(quantity('1000m')) == 0 && quantity('50').sub(20) == quantity('30')",
        "ip('192.168.0.1').family() == 4 && isIP('::1') && !isIP('1.2.3') && ip('::1').isLoopback()",
        "ip.isCanonical('2001:db8::abcd') && !ip.isCanonical('2001:DB8::ABCD')",
        "cidr('192.168.0.0/24').containsIP('192.168.0.7') && cidr('10.0.0.0/8').containsCIDR('10.1.0.0/16')",
        "cidr('192.168.1.5/24').masked() == cidr('192.168.1.0/24') && cidr('::1/128').prefixLength() == 128",
        "cidr('10.0.0.0/8').ip() == ip('10.0.0.0') && string(cidr('10.0.0.0/8')) == '10.0.0.0/8'",
        "url('https://u@example.com:80/a b?k=1&k=2#f').getHost() == 'example.com:80'",
        "url('https://[::1]:80/').getHostname() == '::1' && url('https://example.com:80/').getPort() == '80'",
        "url('https://example.com/path with spaces/').getEscapedPath() == '/path%20with%20spaces/'",
        "url('https://e.com/?k1=a&k2=b&k2=c').getQuery() == {'k1': ['a'], 'k2': ['b', 'c']}",
        "isURL('https://a') && !isURL('../x') && isURL('/a')",
        "semver('1.2.3').isLessThan(semver('1.10.0')) && isSemver('v1.0', true) && !isSemver('v1.0')",
        "semver('1.2.3').major() == 1 && semver('v01.2', true) == semver('1.2.0')",
        "!format.dns1123Label().validate('ok').hasValue()",
        "format.named('uuid').value().validate('x').value() == ['does not match the UUID format']",
    ]);
    check_error(&[
        ("ip('::ffff:1.2.3.4')", "IPv4-mapped IPv6 address \"::ffff:1.2.3.4\" is not allowed"),
        ("sign(quantity('x')) == 1", "quantities must match the regular expression"),
        ("url('x')", "invalid URI for request"),
    ]);
}

#[test]
fn times() {
    check_true(&[
        "timestamp('2020-01-01T00:00:00Z') + duration('1h') == timestamp('2020-01-01T01:00:00Z')",
        "timestamp('2020-01-02T03:04:05.678Z').getFullYear() == 2020",
        "timestamp('2020-01-02T03:04:05Z').getMonth() == 0 && timestamp('2020-01-02T03:04:05Z').getDate() == 2",
        "timestamp('2020-01-02T03:04:05Z').getHours('-02:00') == 1 && timestamp('2020-01-05T00:00:00Z').getDayOfWeek() == 0",
        "duration('90m').getHours() == 1 && duration('1.5s').getMilliseconds() == 1500",
        "string(duration('90s')) == '90s' && string(timestamp('2020-01-01T00:00:00Z')) == '2020-01-01T00:00:00Z'",
        "timestamp('2020-01-02T00:00:00Z') - timestamp('2020-01-01T00:00:00Z') == duration('24h')",
    ]);
    check_error(&[("duration('x')", "invalid duration argument"), ("timestamp('x')", "invalid timestamp argument")]);
}

#[test]
fn problems_read_as_cel_go_has_them() {
    check_error(&[
        ("x == 1", "ERROR: <input>:1:1: undeclared reference to 'x' (in container '')\n | x == 1\n | ^"),
        (
            "1 + 'a'",
            "ERROR: <input>:1:3: found no matching overload for '_+_' applied to '(int, string)'\n | 1 + 'a'\n | ..^",
        ),
        ("foo(1)", "ERROR: <input>:1:4: undeclared reference to 'foo' (in container '')"),
        ("'a'.size(1)", "found no matching overload for 'size' applied to 'string.(int)'"),
        ("[1, 'a']", "ERROR: <input>:1:5: expected type 'int' but found 'string'"),
        (
            "(1).all(x, true)",
            "expression of type 'int' cannot be range of a comprehension (must be list, map, or dynamic)",
        ),
        ("1 == 1.0", "found no matching overload for '_==_' applied to '(int, double)'"),
        ("true ? 1 : 'a'", "found no matching overload for '_?_:_' applied to '(bool, int, string)'"),
        ("1 +", "Syntax error: mismatched input '<EOF>'"),
        ("'a", "Syntax error: token recognition error"),
        ("(1).a", "type 'int' does not support field selection"),
        ("Object{}", "undeclared reference to 'Object' (in container '')"),
        ("1 / 0", "division by zero"),
        ("{'a': 1}.b", "no such key: b"),
        ("{'a': dyn(null)}.a.b", "no such key: b"),
        ("[1][3]", "index out of bounds: 3"),
        ("9223372036854775807 + 1", "integer overflow"),
    ]);
    let error = Env::new().compile("1", &[Type::Bool]).expect_err("not a bool");
    assert_eq!(error.text(), "must evaluate to bool but got int");
}

fn typed_env() -> (Env, Decl) {
    let schema = json!({"type": "object", "properties": {
        "count": {"type": "integer"},
        "name": {"type": "string", "maxLength": 10},
        "names": {"type": "array", "maxItems": 5, "items": {"type": "string", "maxLength": 4}},
        "open": {"type": "array", "items": {"type": "string"}},
        "map": {"type": "object", "maxProperties": 3, "additionalProperties": {"type": "integer"}},
        "when": {"type": "string", "format": "date-time"},
        "port": {"x-kubernetes-int-or-string": true},
        "namespace": {"type": "string"},
    }});
    let decl = Decl::from_json_schema(&schema, true).expect("a visible schema");
    (Env::new().declare("self", decl.clone()), decl)
}

#[test]
fn schemas_type_variables() {
    let (env, decl) = typed_env();
    let object = json!({"kind": "K", "apiVersion": "v1", "metadata": {"name": "n"}, "count": 3, "name": "x",
        "names": ["a"], "map": {"k": 1}, "when": "2020-01-01T00:00:00Z", "port": "http", "namespace": "ns", "unknown": 1});
    let bindings = Bindings::new().set("self", Value::from_json_typed(&object, &decl));
    let eval = |source: &str| {
        let program = env.compile(source, &[Type::Bool]).map_err(|e| e.text())?;
        program.evaluate(&bindings, &mut Budget::new(RUNTIME_BUDGET)).map_err(|e| e.to_string())
    };
    for source in [
        "self.count == 3 && self.metadata.name == 'n' && self.kind == 'K'",
        "self.when < timestamp('2021-01-01T00:00:00Z')",
        "self.port == 'http' || self.port == 80",
        "self.__namespace__ == 'ns' && self.map['k'] == 1 && self.names.all(n, n == 'a')",
        "!has(self.open)",
    ] {
        assert!(eval(source).unwrap_or_else(|e| panic!("{source}: {e}")).equals(&true.into()), "{source}");
    }
    assert!(eval("self.unknown == 1").unwrap_err().contains("undefined field 'unknown'"));
    assert!(
        eval("self.count == 'a'").unwrap_err().contains("no matching overload for '_==_' applied to '(int, string)'")
    );
}

#[test]
fn estimates_are_upstreams() {
    let (env, _) = typed_env();
    let check = |source: &str, min: u64, max: u64| {
        let program = env.compile(source, &[]).unwrap_or_else(|e| panic!("{source}: {e}"));
        assert_eq!(program.estimate(), CostRange { min, max }, "{source}");
    };
    check("true", 0, 0);
    check("has(self.name)", 1, 1);
    check("self.name == 'x'", 3, 3);
    check("self.name.startsWith('abc')", 3, 3);
    check("self.names.all(n, n == 'a')", 3, 28);
    check("size(self.names) > 2", 4, 4);
}

#[test]
fn only_mutations_know_of_patches() {
    let source = "jsonpatch.escapeKey('a/b~c') == 'a~1b~0c'";
    assert!(Env::new().compile(source, &[]).is_err());
    let program = Env::new().with_mutations().compile(source, &[]).unwrap();
    let value = program.evaluate(&Bindings::new(), &mut Budget::new(RUNTIME_BUDGET)).unwrap();
    assert!(value.equals(&true.into()));
}

/// Estimates and costs of Kubernetes' own environment, as `e2e/judge/costs` prints them.
#[test]
fn costs_are_upstreams() {
    let env = Env::new().declare("anything", Decl::dynamic());
    let anything = Value::from_json(&json!([3, 1, 2]));
    let mut differing = Vec::new();
    let mut compared = 0;
    for line in include_str!("costs.txt").lines() {
        let parts: Vec<&str> = line.splitn(4, ' ').collect();
        let [min, max, spent, source] = parts.as_slice() else { panic!("{line}") };
        let program = match env.compile(source, &[]) {
            Ok(program) => program,
            Err(error) => {
                differing.push(format!("{source}: {error}"));
                continue;
            }
        };
        let estimate = program.estimate();
        if (estimate.min.to_string(), estimate.max.to_string()) != ((*min).to_owned(), (*max).to_owned()) {
            differing.push(format!("{source}: estimated {}..{}, upstream {min}..{max}", estimate.min, estimate.max));
        }
        let bindings = Bindings::new().set("anything", anything.clone());
        let mut budget = Budget::new(RUNTIME_BUDGET);
        let ran = program.evaluate(&bindings, &mut budget);
        if *spent != "-" && (ran.is_err() || budget.last.to_string() != *spent) {
            differing.push(format!("{source}: cost {}, upstream {spent} ({ran:?})", budget.last));
        }
        compared += 1;
    }
    assert!(differing.is_empty(), "{} differ:\n{}", differing.len(), differing.join("\n"));
    assert!(compared > 180, "{compared}");
}

#[test]
fn what_runs_away_is_stopped() {
    let source = "lists.range(1000).all(a, lists.range(1000).all(b, a + b >= 0))";
    let program = Env::new().compile(source, &[]).expect("it compiles");
    let mut budget = Budget::new(RUNTIME_BUDGET);
    assert_eq!(program.evaluate(&Bindings::new(), &mut budget).unwrap_err(), EvalError::CostLimit);
    let mut small = Budget::new(100);
    let program = Env::new().compile("lists.range(100).all(x, x >= 0)", &[]).expect("it compiles");
    assert_eq!(program.evaluate(&Bindings::new(), &mut small).unwrap_err(), EvalError::CostLimit);
    assert!(small.exhausted);
}

#[test]
fn depth_is_bounded_on_a_small_stack() {
    let run = || {
        for source in [
            format!("{}1{}", "(".repeat(5000), ")".repeat(5000)),
            format!("1{}", " + 1".repeat(5000)),
            format!("{}true", "!".repeat(5000)),
            format!("[1]{}", "[0]".repeat(5000)),
            format!("x{}", ".a".repeat(5000)),
            "[".repeat(90_000),
            format!("{}1", "true ? 1 : ".repeat(1000)),
        ] {
            let _ = Env::new().declare("x", Decl::dynamic()).compile(&source, &[]).map(drop);
        }
        let deep = format!("1{} > 0", " + 1".repeat(240));
        assert_eq!(super::tests::run(&deep), Ok(json!(true)));
        let deep = format!("{}true{}", "[1].all(x, ".repeat(40), ")".repeat(40));
        assert_eq!(super::tests::run(&deep), Ok(json!(true)));
    };
    let thread = std::thread::Builder::new().stack_size(2 << 20).spawn(run).expect("a thread");
    thread.join().expect("no overflow");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_panics(source in "\\PC{0,80}") {
        let _ = Env::new().declare("x", Decl::dynamic()).compile(&source, &[]).map(drop);
    }

    #[test]
    fn no_expression_panics(tokens in proptest::collection::vec(proptest::sample::select(vec![
        "x", "1", "-", "'a'", "+", "*", "/", "%", "(", ")", "[", "]", "{", "}", ".", "?", ":", ",", "&&", "||", "!", "==",
        "in", "<", "has", "all", "map", "y", "size", "1u", "1.5", "null", "true", "optional.of", "format", "substring",
        "lists.range", "split", "replace", "duration", "'1h'", "timestamp", "9223372036854775807", "[?", ".?", "b'a'",
    ]), 0..30)) {
        let source = tokens.join(" ");
        if let Ok(program) = Env::new().declare("x", Decl::dynamic()).declare("y", Decl::dynamic()).compile(&source, &[]) {
            let bindings = Bindings::new()
                .set("x", Value::from_json(&json!({"a": [1, "b", null, {"c": 1.5}]})))
                .set("y", Value::Int(i64::MIN));
            let mut budget = Budget::new(100_000);
            let _ = program.evaluate(&bindings, &mut budget);
        }
    }
}

#[test]
fn problems_are_told_as_upstream_does() {
    let schema = serde_json::json!({"type": "object", "properties": {"s": {"type": "string"}, "l": {"type": "array", "items": {"type": "string"}}}});
    let env = Env::new().declare("self", Decl::from_json_schema(&schema, false).unwrap());
    let check = |source: &str, want: &[(u32, &str)]| {
        let error = env.compile(source, &[]).expect_err(source);
        let found: Vec<(u32, &str)> = error.issues.iter().map(|i| (i.at + 1, i.message.as_str())).collect();
        assert_eq!(found, want, "{source}");
    };
    check("1 || true", &[(1, "expected type 'bool' but found 'int'")]);
    check("has(self.nope)", &[(4, "undefined field 'nope'")]);
    check("self.`a-b`", &[(5, "undefined field 'a-b'")]);
    check("1e400 > 1.0", &[(1, "invalid double literal")]);
    check("nope.size() > 1", &[(1, "undeclared reference to 'nope' (in container '')")]);
    check(
        "self.s = 's'",
        &[
            (8, "Syntax error: token recognition error at: '= '"),
            (10, "Syntax error: extraneous input ''s'' expecting <EOF>"),
        ],
    );
    check("(self.s", &[(8, "Syntax error: missing ')' at '<EOF>'")]);
    check("self.", &[(6, "Syntax error: no viable alternative at input '.'")]);
    check("[1,,2]", &[(4, "Syntax error: mismatched input ',' expecting ']'")]);
    check("if(true)", &[(1, "reserved identifier: if")]);
    check("b'\\u00e9'", &[(1, "unable to unescape string")]);
    check("self.l.map(1, 2)", &[(12, "argument is not an identifier")]);
    check(
        "'%d'.format(['a'])",
        &[(14, "error during formatting: decimal clause can only be used on integers, was given string")],
    );
    check("'%s'.format([])", &[(12, "index 0 out of range")]);
    assert!(env.compile("'%s %.3f %x%%'.format([self.l, 1.0, self.s]) == [,].size().format([])", &[]).is_err());
    assert!(env.compile("b'\\377'.size() == [1,].size() && self.`s` == '''a'b'''", &[Type::Bool]).is_ok());
}
