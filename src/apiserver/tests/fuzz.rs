//! Random input to everything that reads what clients and files say: nothing panics, nothing takes more than it should.

use std::sync::OnceLock;

use axum::body::Body;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::harness::{Harness, WIDGETS, widget_named};
use crate::audit::policy::Policy;
use crate::auth::oidc::config::Configuration;
use crate::query::Query;
use crate::request::RequestInfo;

/// One server for all cases: what one leaves behind is the beginning of the next.
fn server() -> &'static (Runtime, Harness) {
    static SERVER: OnceLock<(Runtime, Harness)> = OnceLock::new();
    SERVER.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let harness = runtime.block_on(Harness::new());
        runtime.block_on(harness.widget("a"));
        (runtime, harness)
    })
}

/// Answers a request; what the handler does not expect is a panic, which is fenced and told so.
fn ask(method: Method, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Result<(), TestCaseError> {
    let (runtime, harness) = server();
    let Ok(uri) = path.parse::<http::Uri>() else { return Ok(()) };
    let mut request = Request::new(Body::from(body));
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    request.extensions_mut().insert(api::UserInfo::new("tester", &[]));
    for (name, value) in headers {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value)) {
            request.headers_mut().append(name, value);
        }
    }
    runtime.block_on(async {
        let response = harness.send(request).await;
        let watch = path.contains("watch");
        // A watch that was opened goes on for ever.
        if watch && response.status() == 200 {
            return Ok(());
        }
        let answer = Harness::read(response).await;
        prop_assert!(!answer.text.contains("caused apiserver to panic"), "{}", answer.text);
        Ok(())
    })
}

fn words() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "api",
        "apis",
        "test.io",
        "v1",
        "namespaces",
        "ns",
        "widgets",
        "a",
        "status",
        "scale",
        "watch",
        "proxy",
        "healthz",
        "readyz",
        "livez",
        "metrics",
        "openapi",
        "v2",
        "v3",
        "version",
        "debug",
        "api_priority_and_fairness",
        "dump_requests",
        "statusz",
        "flagz",
        "etcd",
        "..",
        ".",
        "",
    ]);
    prop_oneof![4 => known.prop_map(str::to_owned), 1 => "[a-z%0-9A-F:]{0,12}"]
}

fn paths() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => prop::collection::vec(words(), 0..8).prop_map(|parts| format!("/{}", parts.join("/"))),
        2 => Just(WIDGETS.to_owned()),
        2 => Just(format!("{WIDGETS}/a")),
        1 => Just(format!("{WIDGETS}/a/status")),
    ]
}

fn queries() -> impl Strategy<Value = String> {
    let key = prop::sample::select(vec![
        "limit",
        "continue",
        "resourceVersion",
        "resourceVersionMatch",
        "labelSelector",
        "fieldSelector",
        "timeout",
        "timeoutSeconds",
        "dryRun",
        "fieldManager",
        "fieldValidation",
        "force",
        "pretty",
        "propagationPolicy",
        "gracePeriodSeconds",
        "sendInitialEvents",
        "includeObject",
        "allowWatchBookmarks",
        "orphanDependents",
    ]);
    let value = prop_oneof![
        "[-+0-9a-z=,!()%.]{0,20}",
        Just("true".to_owned()),
        Just("All".to_owned()),
        Just("Exact".to_owned()),
        Just("0".to_owned()),
        "[A-Za-z0-9_-]{0,60}",
    ];
    prop::collection::vec((key, value), 0..4)
        .prop_map(|pairs| pairs.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join("&"))
}

fn media_types() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "application/json",
        "application/yaml",
        "application/vnd.kubernetes.protobuf",
        "application/apply-patch+yaml",
        "application/merge-patch+json",
        "application/json-patch+json",
        "application/strategic-merge-patch+json",
        "application/json;as=Table;v=v1;g=meta.k8s.io",
        "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json",
        "application/cbor",
        "*/*",
    ]);
    prop_oneof![4 => known.prop_map(str::to_owned), 1 => "[a-z/;=,*+. 0-9]{0,40}"]
}

/// Bodies near what a widget is.
fn bodies() -> impl Strategy<Value = Vec<u8>> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,10}".prop_map(Value::from),
        Just(json!("a")),
        Just(json!("Widget")),
        Just(json!("test.io/v1")),
    ];
    let field = prop::sample::select(vec![
        "kind",
        "apiVersion",
        "metadata",
        "name",
        "namespace",
        "labels",
        "finalizers",
        "managedFields",
        "fieldsV1",
        "spec",
        "size",
        "replicas",
        "color",
        "status",
        "op",
        "path",
        "value",
        "f:spec",
        "resourceVersion",
        "uid",
        "ownerReferences",
        "deletionTimestamp",
        "generateName",
        "preconditions",
        "items",
        "$patch",
        "$deleteFromPrimitiveList/a",
    ]);
    let tree = leaf.prop_recursive(5, 40, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((field.clone(), inner), 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())),
        ]
    });
    prop_oneof![
        4 => tree.clone().prop_map(|value| value.to_string().into_bytes()),
        2 => tree.prop_map(|value| {
            let mut widget = widget_named("a");
            widget["metadata"]["labels"] = value.clone();
            widget["spec"] = value;
            widget.to_string().into_bytes()
        }),
        1 => prop::collection::vec(any::<u8>(), 0..200),
        1 => prop::collection::vec(any::<u8>(), 0..200).prop_map(|bytes| [b"k8s\0".to_vec(), bytes].concat()),
    ]
}

fn methods() -> impl Strategy<Value = Method> {
    prop::sample::select(vec![
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
        Method::OPTIONS,
        Method::TRACE,
    ])
}

/// Configuration files, of words that mean something in them.
fn files() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec![
        "apiVersion: audit.k8s.io/v1\n",
        "kind: Policy\n",
        "rules:\n",
        "- level: ",
        "Metadata\n",
        "RequestResponse\n",
        "  omitStages: [RequestReceived]\n",
        "  resources: [{group: \"\", resources: [pods/*]}]\n",
        "  users: [a]\n",
        "apiVersion: apiserver.config.k8s.io/v1\n",
        "kind: AuthenticationConfiguration\n",
        "jwt:\n",
        "- issuer:\n",
        "    url: https://example.org\n",
        "    audiences: [a]\n",
        "  claimMappings:\n",
        "    username: {expression: \"claims.sub\"}\n",
        "    username: {claim: sub, prefix: \"\"}\n",
        "  claimValidationRules:\n",
        "  - expression: \"claims.a == 1\"\n",
        "anonymous: {enabled: true, conditions: [{path: /a}]}\n",
        "kind: AuthorizationConfiguration\n",
        "authorizers:\n",
        "- type: RBAC\n  name: a\n",
        "- type: Webhook\n  name: w\n  webhook:\n",
        "    authorizedTTL: 5m\n    timeout: 3s\n    subjectAccessReviewVersion: v1\n",
        "    timeout: 1e9h\n",
        "    failurePolicy: Deny\n    connectionInfo: {type: KubeConfigFile, kubeConfigFile: /a}\n",
        "    matchConditions: [{expression: \"request.user == 'a'\"}, {expression: \"((\"}]\n",
        "&a",
        "*a",
        "!!binary",
        "|\n",
        "[",
        "{",
        "---\n",
        " ",
        "\t",
    ]);
    prop_oneof![prop::collection::vec(word, 0..14).prop_map(|words| words.concat()), "\\PC{0,200}"]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_request_panics(
        method in methods(), path in paths(), query in queries(), content in media_types(), accept in media_types(),
        body in bodies(),
    ) {
        let headers = [("content-type", content.as_str()), ("accept", accept.as_str())];
        ask(method, &format!("{path}?{query}"), &headers, body)?;
    }

    #[test]
    fn no_continue_token_panics(
        bytes in prop::collection::vec(any::<u8>(), 0..60), start in "[a-z/.0-9]{0,20}",
        // Those of the future are waited for.
        rv in prop_oneof![-3i64..3, Just(i64::MIN)],
        version in prop::sample::select(vec!["meta.k8s.io/v1", "", "x"]),
    ) {
        use base64::Engine;
        use base64::engine::general_purpose::URL_SAFE_NO_PAD;
        let like = json!({"v": version, "rv": rv, "start": start}).to_string();
        for token in [bytes, like.into_bytes()] {
            let token = URL_SAFE_NO_PAD.encode(token);
            ask(Method::GET, &format!("{WIDGETS}?limit=2&continue={token}"), &[], Vec::new())?;
        }
    }

    #[test]
    fn no_request_line_panics(path in "/[a-z%0-9A-F/.:]{0,60}", query in "\\PC{0,60}", method in methods()) {
        let query = Query::parse(&query);
        let _info = RequestInfo::parse(&method, &path, &query);
        let _number = query.number("limit");
    }

    #[test]
    fn no_duration_panics(text in "[-+0-9.a-zµ]{0,30}", any in "\\PC{0,20}") {
        let _read = (crate::parse_duration(&text), crate::parse_duration(&any));
    }

    #[test]
    fn no_accept_header_panics(text in media_types(), any in "[ -~]{0,80}") {
        for text in [text, any] {
            let mut headers = HeaderMap::new();
            headers.insert(http::header::ACCEPT, HeaderValue::from_str(&text).unwrap());
            let _agreed = crate::negotiate::negotiate(&headers, &Query::default(), crate::negotiate::Shapes::All, true);
        }
    }

    #[test]
    fn no_configuration_file_panics(text in files()) {
        let _policy = Policy::parse(&text);
        let _modes = crate::auth::modes::Mode::parse_file(&text);
        if let Ok(read) = Configuration::parse(&text) {
            let _compiled = read.compile(&["https://own".to_owned()]);
        }
    }

    #[test]
    fn no_kubeconfig_panics(words in prop::collection::vec(prop::sample::select(vec![
        "apiVersion: v1\nkind: Config\n",
        "current-context: a\n",
        "contexts: [{name: a, context: {cluster: a, user: a}}]\n",
        "clusters: [{name: a, cluster: {server: 'https://a'}}]\n",
        "clusters: [{name: a, cluster: {server: 'https://', certificate-authority-data: 'IQ==', tls-server-name: '-'}}]\n",
        "clusters: [{name: a, cluster: {server: 'https://a', insecure-skip-tls-verify: true}}]\n",
        "users: [{name: a, user: {token: \"\\u0001\"}}]\n",
        "users: [{name: a, user: {username: a, password: b}}]\n",
        "users: [{name: a, user: {client-certificate-data: 'IQ==', client-key-data: '!'}}]\n",
        "users: [{name: a, user: {client-certificate: nothing}}]\n",
        "&a",
        "*a",
        "[",
        "}",
        "\t",
    ]), 0..7), any in "\\PC{0,60}") {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config");
        for text in [words.concat(), any] {
            std::fs::write(&path, text).unwrap();
            let _read = crate::remote::Remote::load(&path);
        }
    }

    #[test]
    fn no_jwt_panics(parts in prop::collection::vec("[A-Za-z0-9_=-]{0,40}", 0..5), bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        use base64::Engine;
        use base64::engine::general_purpose::URL_SAFE_NO_PAD;
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"RS256","kid":"a"}"#);
        let keys = pki::jwks::KeySet::parse(br#"{"keys":[]}"#).unwrap();
        for token in [parts.join("."), format!("{header}.{}.{}", URL_SAFE_NO_PAD.encode(&bytes), parts.join(""))] {
            let _read = keys.verify(&token, &["RS256".to_owned()]);
        }
    }
}

#[test]
fn no_column_path_panics() {
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let object = json!({"spec": {"a": [1, {"b": "c"}], "d.e": null}, "metadata": {"creationTimestamp": "x"}});
    let path = "[{}$.\\[\\]a-e'\"?(@=!)*:0-9,-]{0,40}";
    runner
        .run(&(path, "string|date|integer|x"), |(path, kind)| {
            let _cell = crate::table::jsonpath::cell(&path, &kind, &object, jiff::Timestamp::UNIX_EPOCH);
            Ok(())
        })
        .unwrap();
}
