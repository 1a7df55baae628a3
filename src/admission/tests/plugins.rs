//! The plugins over an API server that answers from a table: what they say of requests.

#[path = "plugins/manifests.rs"]
mod manifests;
#[path = "plugins/optional.rs"]
mod optional;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use admission::{Admission, Chain, Manifests};
use api::admission::{AdmissionPlugin, Attributes, Operation};
use api::services::{
    AuthorizationAttributes, Authorizer, Decision, Kinds, Registry, ServedKind, Services, TokenRequest, Tokens,
};
use api::webhook::{Target, WebhookError, Webhooks};
use api::{Gvk, Gvr, Object, Status, UserInfo};
use async_trait::async_trait;
use base::Shutdown;
use bytes::Bytes;
use client::{Body, Client, Informers};
use http::{Request, Response};
use http_body_util::Full;
use serde_json::{Value, json};

struct Nobody;

#[async_trait]
impl Authorizer for Nobody {
    async fn authorize(&self, _: &UserInfo, _: &AuthorizationAttributes) -> Decision {
        Decision::NoOpinion { reason: String::new() }
    }

    async fn rules(&self, _: &UserInfo, _: &str) -> (Vec<Value>, Vec<Value>, bool) {
        (Vec::new(), Vec::new(), false)
    }
}

#[async_trait]
impl Registry for Nobody {
    async fn get(&self, resource: &Gvr, _: &str, name: &str) -> Result<Object, Status> {
        match resource.resource.as_str() {
            "namespaces" => {
                let namespace = json!({"metadata": {"name": name, "labels": {"env": "test"}}});
                Ok(Object::from_value(namespace).expect("an object"))
            }
            _ => Err(Status::not_found(&resource.group_resource(), name)),
        }
    }

    async fn list(&self, _: &Gvr, _: &str) -> Result<Vec<Object>, Status> {
        Ok(Vec::new())
    }

    async fn create(&self, _: &Gvr, _: &str, _: Object) -> Result<Object, Status> {
        Err(Status::page_not_found())
    }

    async fn update(
        &self,
        _: &Gvr,
        _: &str,
        _: &str,
        _: &(dyn for<'o> Fn(&'o mut Object) -> Result<(), Status> + Send + Sync),
    ) -> Result<Object, Status> {
        Err(Status::page_not_found())
    }

    async fn delete(&self, _: &Gvr, _: &str, _: &str, _: Object) -> Result<Object, Status> {
        Err(Status::page_not_found())
    }
}

#[async_trait]
impl Tokens for Nobody {
    async fn issue(&self, _: TokenRequest) -> Result<(String, jiff::Timestamp), Status> {
        Err(Status::internal("no tokens here"))
    }

    fn audiences(&self) -> Vec<String> {
        Vec::new()
    }

    async fn review(&self, _: &str, _: &[String]) -> Result<(UserInfo, Vec<String>), String> {
        Err("no tokens here".to_owned())
    }
}

#[async_trait]
impl Kinds for Nobody {
    fn kind(&self, _: &Gvk) -> Option<ServedKind> {
        None
    }

    fn kinds(&self) -> Vec<ServedKind> {
        Vec::new()
    }

    fn equivalents(&self, _: &Gvr, _: &str) -> Vec<(Gvr, Gvk)> {
        Vec::new()
    }

    async fn convert(&self, object: Object, _: &Gvk) -> Result<Object, Status> {
        Ok(object)
    }

    fn complete(&self, object: Object) -> Result<Object, Status> {
        Ok(object)
    }

    fn check_members(&self, object: &Object) -> Result<(), String> {
        match object.get(&["unknown"]) {
            Some(_) => Err("strict decoding error: unknown field \"unknown\"".to_owned()),
            None => Ok(()),
        }
    }

    fn accept(&self, document: &Value) -> Result<Object, String> {
        Object::from_value(document.clone()).ok_or_else(|| "no object".to_owned())
    }
}

/// Answers every webhook with what its path is the name of.
struct Answers(Answer);

type Answer = fn(path: &str, review: &Value) -> Value;

#[async_trait]
impl Webhooks for Answers {
    async fn post(&self, target: &Target, body: Bytes, _: std::time::Duration) -> Result<Bytes, WebhookError> {
        let review: Value = serde_json::from_slice(&body).expect("a review");
        let url = target.url();
        let path = url.rsplit('/').next().unwrap_or_default();
        let mut response = (self.0)(path, &review["request"]);
        if response.is_null() {
            return Err(WebhookError::Unreachable { url: url.clone(), why: "no answer".to_owned() });
        }
        response["uid"] = review["request"]["uid"].clone();
        let answer = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response});
        Ok(answer.to_string().into())
    }
}

fn services(answer: Answer) -> Services {
    Services {
        registry: Arc::new(Nobody),
        authorizer: Arc::new(Nobody),
        tokens: Arc::new(Nobody),
        webhooks: Arc::new(Answers(answer)),
        kinds: Arc::new(Nobody),
    }
}

/// Objects by path. Watches are refused, so informers never sync: every plugin must do without.
struct World {
    plugins: Vec<Arc<dyn AdmissionPlugin>>,
    manifests: Vec<Arc<Manifests>>,
    shutdown: Shutdown,
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

fn world(objects: &[(&str, Value)]) -> World {
    world_with(objects, |_, _| Value::Null)
}

fn world_with(objects: &[(&str, Value)], answer: Answer) -> World {
    world_of(objects, answer, &Chain::default())
}

fn world_of(objects: &[(&str, Value)], answer: Answer, chain: &Chain) -> World {
    let objects: BTreeMap<String, Value> = objects.iter().map(|(path, o)| ((*path).to_owned(), o.clone())).collect();
    let objects = Arc::new(objects);
    let service = tower::service_fn(move |request: Request<Body>| {
        let objects = Arc::clone(&objects);
        async move {
            let watches = request.uri().query().unwrap_or_default().contains("watch");
            let found = objects.get(request.uri().path()).filter(|_| !watches);
            let missing = json!({"kind": "Status", "code": 404, "reason": "NotFound", "message": "not found"});
            let status = if found.is_some() { 200 } else { 404 };
            let body = Full::new(Bytes::from(found.unwrap_or(&missing).to_string()));
            Ok::<_, Infallible>(Response::builder().status(status).body(body).expect("a plain response"))
        }
    });
    let client = Client::in_memory(service, UserInfo::new("test", &[]));
    let shutdown = Shutdown::new();
    let informers = Informers::new(client.clone(), shutdown.clone());
    let now = jiff::Timestamp::UNIX_EPOCH;
    let admission = admission::plugins(chain, (client, informers), services(answer), ("test", now));
    let Admission { plugins, manifests } = admission.expect("a chain");
    World { plugins, manifests, shutdown }
}

fn request(operation: Operation, resource: &str, object: Option<Value>) -> Attributes {
    let object = object.and_then(Object::from_value);
    Attributes {
        operation,
        gvk: Gvk::new("", "v1", "Any"),
        resource: Gvr::new("", "v1", resource),
        subresource: String::new(),
        namespace: if matches!(resource, "namespaces" | "nodes") { "" } else { "ns" }.to_owned(),
        name: object.as_ref().map(|o| o.name().to_owned()).unwrap_or_default(),
        object,
        old_object: None,
        options: None,
        user: UserInfo::new("someone", &[]),
        dry_run: false,
        warnings: Vec::new(),
        notes: Default::default(),
        reinvocation: Default::default(),
    }
}

impl World {
    async fn run(&self, plugin: &str, attributes: &mut Attributes) -> Result<(), Status> {
        let plugin = self.plugins.iter().find(|p| p.name() == plugin).expect("a plugin of this name");
        if !plugin.handles(attributes.operation, &attributes.resource, &attributes.subresource) {
            return Ok(());
        }
        plugin.admit(attributes).await?;
        plugin.validate(attributes).await
    }

    async fn refusal(&self, plugin: &str, mut attributes: Attributes) -> String {
        self.run(plugin, &mut attributes).await.expect_err("a refusal").message
    }
}

fn namespace(deleting: bool) -> Value {
    let mut namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ns"},
        "status": {"phase": "Active"}});
    if deleting {
        namespace["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    }
    namespace
}

fn pod(spec: Value) -> Option<Value> {
    Some(json!({"metadata": {"name": "p"}, "spec": spec}))
}

#[tokio::test]
async fn nothing_is_made_in_a_namespace_that_is_missing_or_going() {
    let plugin = "NamespaceLifecycle";
    let create = || request(Operation::Create, "configmaps", Some(json!({"metadata": {"name": "c"}})));
    let missing = world(&[]);
    assert_eq!(missing.refusal(plugin, create()).await, "namespaces \"ns\" not found");
    let path = "/api/v1/namespaces/ns";
    world(&[(path, namespace(false))]).run(plugin, &mut create()).await.expect("an active namespace");
    let going = world(&[(path, namespace(true))]);
    let status = going.run(plugin, &mut create()).await.expect_err("a refusal");
    assert_eq!(
        status.message,
        "configmaps \"c\" is forbidden: unable to create new content in namespace ns because it is being terminated"
    );
    let cause = &status.details.expect("details").causes[0];
    assert_eq!((cause.reason.as_str(), cause.field.as_str()), ("NamespaceTerminating", "metadata.namespace"));
    let mut delete = request(Operation::Delete, "namespaces", None);
    delete.name = "kube-system".to_owned();
    assert_eq!(
        going.refusal(plugin, delete).await,
        "namespaces \"kube-system\" is forbidden: this namespace may not be deleted"
    );
}

#[tokio::test(start_paused = true)]
async fn pods_get_the_default_account_or_none_at_all() {
    let plugin = "ServiceAccount";
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"},
        "imagePullSecrets": [{"name": "pull"}]});
    let world = world(&[("/api/v1/namespaces/ns/serviceaccounts/default", account)]);
    let mut attributes = request(Operation::Create, "pods", pod(json!({"containers": [{"name": "c"}]})));
    world.run(plugin, &mut attributes).await.expect("a pod with an account");
    let made = attributes.object.expect("the pod");
    assert_eq!(made.str(&["spec", "serviceAccountName"]), Some("default"));
    assert_eq!(made.str(&["spec", "serviceAccount"]), Some("default"));
    assert_eq!(made.array(&["spec", "imagePullSecrets"]), [json!({"name": "pull"})]);
    assert_eq!(made.array(&["spec", "volumes"]).len(), 1);
    let other = request(Operation::Create, "pods", pod(json!({"serviceAccountName": "other"})));
    assert_eq!(
        world.refusal(plugin, other).await,
        "pods \"p\" is forbidden: error looking up service account ns/other: serviceaccount \"other\" not found"
    );
}

#[tokio::test]
async fn priorities_come_from_classes() {
    let plugin = "Priority";
    let class = |name: &str, value: i32, default: bool| {
        json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name},
            "value": value, "globalDefault": default, "preemptionPolicy": "Never"})
    };
    let classes = "/apis/scheduling.k8s.io/v1/priorityclasses";
    let list = json!({"kind": "PriorityClassList", "apiVersion": "scheduling.k8s.io/v1", "metadata": {},
        "items": [class("b", 7, true), class("a", 5, true)]});
    let high = format!("{classes}/high");
    let world = world(&[(classes, list), (&high, class("high", 1000, false))]);
    for (given, expected) in [
        (json!({}), json!({"priorityClassName": "a", "priority": 5, "preemptionPolicy": "Never"})),
        (
            json!({"priorityClassName": "high"}),
            json!({"priorityClassName": "high", "priority": 1000, "preemptionPolicy": "Never"}),
        ),
    ] {
        let mut attributes = request(Operation::Create, "pods", pod(given));
        world.run(plugin, &mut attributes).await.expect("a pod with a priority");
        assert_eq!(attributes.object.expect("the pod").get(&["spec"]), Some(&expected));
    }
    let wrong = request(Operation::Create, "pods", pod(json!({"priorityClassName": "high", "priority": 3})));
    assert_eq!(
        world.refusal(plugin, wrong).await,
        "pods \"p\" is forbidden: the integer value of priority (3) must not be provided in pod spec; priority admission \
         controller computed 1000 from the given PriorityClass name"
    );
    let unknown = request(Operation::Create, "pods", pod(json!({"priorityClassName": "none"})));
    assert_eq!(
        world.refusal(plugin, unknown).await,
        "pods \"p\" is forbidden: no PriorityClass with name none was found"
    );
}

#[tokio::test]
async fn limits_are_looked_up_live() {
    let list = json!({"kind": "LimitRangeList", "apiVersion": "v1", "metadata": {}, "items": [
        {"metadata": {"name": "l"}, "spec": {"limits": [{"type": "Container", "default": {"cpu": "1"}, "max": {"cpu": "2"}}]}}]});
    let world = world(&[("/api/v1/namespaces/ns/limitranges", list)]);
    let mut attributes = request(Operation::Create, "pods", pod(json!({"containers": [{"name": "c"}]})));
    world.run("LimitRanger", &mut attributes).await.expect("a pod within limits");
    let made = attributes.object.expect("the pod");
    assert_eq!(made.array(&["spec", "containers"])[0]["resources"], json!({"limits": {"cpu": "1"}}));
    let spec = json!({"containers": [{"name": "c", "resources": {"limits": {"cpu": "3"}}}]});
    assert_eq!(
        world.refusal("LimitRanger", request(Operation::Create, "pods", pod(spec))).await,
        "pods \"p\" is forbidden: maximum cpu usage per Container is 2, but limit is 3"
    );
}

#[tokio::test]
async fn a_node_keeps_to_itself() {
    let plugin = "NodeRestriction";
    let bound = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "ns", "uid": "u"},
        "spec": {"nodeName": "n1", "containers": [], "volumes": [{"name": "t", "projected": {"sources": [
            {"serviceAccountToken": {"path": "token"}}]}}]}});
    let world = world(&[("/api/v1/namespaces/ns/pods/p", bound)]);
    let as_node = |node: &str, mut attributes: Attributes| {
        attributes.user = UserInfo::new(format!("system:node:{node}"), &["system:nodes"]);
        attributes
    };
    let delete = || Attributes { name: "p".to_owned(), ..request(Operation::Delete, "pods", None) };
    world.run(plugin, &mut as_node("n1", delete())).await.expect("its own pod");
    assert_eq!(
        world.refusal(plugin, as_node("n2", delete())).await,
        "pods \"p\" is forbidden: node \"n2\" can only delete pods with spec.nodeName set to itself"
    );
    let node = json!({"metadata": {"name": "n1", "labels": {"node-restriction.kubernetes.io/x": "y"}}});
    assert_eq!(
        world.refusal(plugin, as_node("n1", request(Operation::Create, "nodes", Some(node)))).await,
        "nodes \"n1\" is forbidden: node \"n1\" is not allowed to set the following labels: \
         node-restriction.kubernetes.io/x"
    );
    let token = |uid: &str, audiences: Value| {
        let body = json!({"spec": {"audiences": audiences,
            "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid}}});
        let mut attributes = request(Operation::Create, "serviceaccounts", Some(body));
        attributes.subresource = "token".to_owned();
        attributes.name = "default".to_owned();
        as_node("n1", attributes)
    };
    world.run(plugin, &mut token("u", json!([]))).await.expect("a token that the pod mounts");
    assert!(world.refusal(plugin, token("v", json!([]))).await.contains("does not match the UID in record"));
    assert_eq!(
        world.refusal(plugin, token("u", json!(["other"]))).await,
        "serviceaccounts \"default\" is forbidden: system:node:n1 is not authorized to request tokens for audience \
         \"other\""
    );
}

#[tokio::test]
async fn new_objects_get_their_defaults() {
    let class = json!({"kind": "StorageClassList", "apiVersion": "storage.k8s.io/v1", "metadata": {}, "items": [
        {"metadata": {"name": "old", "creationTimestamp": "2026-01-01T00:00:00Z",
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}, "provisioner": "x"},
        {"metadata": {"name": "new", "creationTimestamp": "2026-02-01T00:00:00Z",
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}, "provisioner": "x"}]});
    let world = world(&[("/apis/storage.k8s.io/v1/storageclasses", class)]);
    let mut claim = request(Operation::Create, "persistentvolumeclaims", Some(json!({"metadata": {"name": "c"}})));
    for plugin in ["DefaultStorageClass", "StorageObjectInUseProtection"] {
        world.run(plugin, &mut claim).await.expect("a claim");
    }
    let claim = claim.object.expect("the claim");
    assert_eq!(claim.str(&["spec", "storageClassName"]), Some("new"));
    assert_eq!(claim.finalizers().collect::<Vec<_>>(), ["kubernetes.io/pvc-protection"]);
    let spec = json!({"tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists"}]});
    let mut pod = request(Operation::Create, "pods", pod(spec));
    world.run("DefaultTolerationSeconds", &mut pod).await.expect("a pod");
    assert_eq!(pod.object.expect("the pod").array(&["spec", "tolerations"]).len(), 2);
    let mut node = request(Operation::Create, "nodes", Some(json!({"metadata": {"name": "n"}})));
    world.run("TaintNodesByCondition", &mut node).await.expect("a node");
    assert_eq!(
        node.object.expect("the node").array(&["spec", "taints"]),
        [json!({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"})]
    );
}

#[tokio::test]
async fn namespaces_choose_how_safe_their_pods_must_be() {
    let plugin = "PodSecurity";
    let mut restricted = namespace(false);
    restricted["metadata"]["labels"] = json!({"pod-security.kubernetes.io/enforce": "baseline",
        "pod-security.kubernetes.io/warn": "restricted"});
    let safe = world(&[("/api/v1/namespaces/ns", restricted)]);
    let host = request(Operation::Create, "pods", pod(json!({"hostNetwork": true, "containers": [{"name": "c"}]})));
    assert_eq!(
        safe.refusal(plugin, host.clone()).await,
        "pods \"p\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true)"
    );
    let mut plain = request(Operation::Create, "pods", pod(json!({"containers": [{"name": "c"}]})));
    safe.run(plugin, &mut plain).await.expect("a pod of the baseline");
    let said = plain.notes.take();
    assert!(said.warnings[0].starts_with("would violate PodSecurity \"restricted:latest\": allowPrivilegeEscalation"));
    let enforced = ("pod-security.kubernetes.io/enforce-policy".to_owned(), "baseline:latest".to_owned());
    assert_eq!(said.annotations, [enforced]);
    let open = world(&[("/api/v1/namespaces/ns", namespace(false))]);
    open.run(plugin, &mut host.clone()).await.expect("a pod in an open namespace");
    let labels = json!({"metadata": {"name": "ns", "labels": {"pod-security.kubernetes.io/enforce": "strict"}}});
    let refused = open.refusal(plugin, request(Operation::Create, "namespaces", Some(labels))).await;
    assert!(
        refused.ends_with("Invalid value: \"strict\": must be one of privileged, baseline, restricted"),
        "{refused}"
    );
}

#[tokio::test]
async fn signers_are_for_those_who_may() {
    let world = world(&[]);
    let csr = || json!({"metadata": {"name": "r"}, "spec": {"signerName": "x.io/y"}, "status": {}});
    let mut update = request(Operation::Update, "certificatesigningrequests", Some(csr()));
    update.resource.group = "certificates.k8s.io".to_owned();
    update.subresource = "approval".to_owned();
    update.old_object = Object::from_value(csr());
    assert_eq!(
        world.refusal("CertificateApproval", update.clone()).await,
        "certificatesigningrequests.certificates.k8s.io \"r\" is forbidden: user not permitted to approve requests with \
         signerName \"x.io/y\""
    );
    update.subresource = "status".to_owned();
    world.run("CertificateSigning", &mut update.clone()).await.expect("nothing signed");
    if let Some(object) = &mut update.object {
        object.set(&["status", "certificate"], "eA==");
    }
    assert!(world.refusal("CertificateSigning", update).await.contains("user not permitted to sign"));
}

#[tokio::test]
async fn pods_carry_the_topology_of_their_node() {
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "labels":
        {"topology.kubernetes.io/zone": "z", "other": "o"}}});
    let world = world(&[("/api/v1/nodes/n", node)]);
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}});
    let mut bind = request(Operation::Create, "pods", Some(binding));
    bind.subresource = "binding".to_owned();
    world.run("PodTopologyLabels", &mut bind).await.expect("a binding");
    let labels: Vec<(String, String)> =
        bind.object.expect("the binding").labels().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    assert_eq!(labels, [("topology.kubernetes.io/zone".to_owned(), "z".to_owned())]);
}

const HOOKS: &str = "/apis/admissionregistration.k8s.io/v1";

/// A configuration of webhooks, each `(name, what differs)`.
fn hooks(kind: &str, webhooks: &[(&str, Value)]) -> Value {
    let webhooks: Vec<Value> = webhooks
        .iter()
        .map(|(name, patch)| {
            let mut hook = json!({
                "name": format!("{name}.example.com"),
                "clientConfig": {"url": format!("https://hooks/{name}")},
                "rules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["*"]}],
                "failurePolicy": "Fail", "matchPolicy": "Equivalent", "sideEffects": "None",
                "admissionReviewVersions": ["v1"],
            });
            for (key, value) in patch.as_object().into_iter().flatten() {
                hook[key] = value.clone();
            }
            hook
        })
        .collect();
    let one = json!({"metadata": {"name": "c", "uid": "u"}, "webhooks": webhooks});
    json!({"kind": format!("{kind}List"), "apiVersion": "admissionregistration.k8s.io/v1", "metadata": {}, "items": [one]})
}

fn config_map() -> Attributes {
    let mut attributes = request(Operation::Create, "configmaps", Some(json!({"metadata": {"name": "c"}, "data": {}})));
    attributes.gvk = Gvk::new("", "v1", "ConfigMap");
    attributes
}

#[tokio::test]
async fn validating_webhooks_refuse_warn_and_fail_as_their_policy_says() {
    let plugin = "ValidatingAdmissionWebhook";
    let path = format!("{HOOKS}/validatingwebhookconfigurations");
    let answer: Answer = |path, request| match path {
        "deny" => json!({"allowed": false, "status": {"message": "because"}, "warnings": ["beware"]}),
        "silent" => Value::Null,
        _ => json!({"allowed": request["userInfo"]["username"] == "someone", "auditAnnotations": {"k": "v"}}),
    };
    let with =
        |webhooks: &[(&str, Value)]| world_with(&[(&path, hooks("ValidatingWebhookConfiguration", webhooks))], answer);
    let mut attributes = config_map();
    with(&[("allow", json!({}))]).run(plugin, &mut attributes).await.expect("consent");
    assert_eq!(attributes.notes.take().annotations, [("allow.example.com/k".to_owned(), "v".to_owned())]);
    let mut attributes = config_map();
    let world = with(&[("allow", json!({})), ("deny", json!({}))]);
    let refused = world.run(plugin, &mut attributes).await.expect_err("a refusal");
    assert_eq!(refused.message, "admission webhook \"deny.example.com\" denied the request: because");
    assert_eq!(refused.code, 400);
    assert_eq!(attributes.notes.take().warnings, ["beware"]);
    let world = with(&[("silent", json!({}))]);
    assert_eq!(
        world.refusal(plugin, config_map()).await,
        "Internal error occurred: failed calling webhook \"silent.example.com\": failed to call webhook: Post \"https://hooks/silent\": no answer"
    );
    let world = with(&[("silent", json!({"failurePolicy": "Ignore"}))]);
    world.run(plugin, &mut config_map()).await.expect("an ignored failure");
    let world = with(&[("deny", json!({"objectSelector": {"matchLabels": {"a": "b"}}}))]);
    world.run(plugin, &mut config_map()).await.expect("an object that is not meant");
    let world = with(&[("deny", json!({"sideEffects": "Some"}))]);
    let dry = Attributes { dry_run: true, ..config_map() };
    assert_eq!(world.refusal(plugin, dry).await, "admission webhook \"deny.example.com\" does not support dry run");
}

#[tokio::test]
async fn mutating_webhooks_see_each_others_changes_and_run_again_if_they_ask() {
    let plugin = "MutatingAdmissionWebhook";
    let path = format!("{HOOKS}/mutatingwebhookconfigurations");
    let answer: Answer = |path, request| {
        // Adds its own name, and counts how often it was asked.
        let seen = request["object"]["data"][path].as_str().map_or(0, str::len);
        let patch = json!([{"op": "add", "path": format!("/data/{path}"), "value": "x".repeat(seen + 1)}]);
        use base64::Engine;
        let patch = base64::engine::general_purpose::STANDARD.encode(patch.to_string());
        json!({"allowed": true, "patch": patch, "patchType": "JSONPatch"})
    };
    let configuration = hooks(
        "MutatingWebhookConfiguration",
        &[("one", json!({"reinvocationPolicy": "IfNeeded"})), ("two", json!({"reinvocationPolicy": "Never"}))],
    );
    let world = world_with(&[(&path, configuration)], answer);
    let mut attributes = config_map();
    world.run(plugin, &mut attributes).await.expect("consent");
    assert!(attributes.reinvocation.should_reinvoke);
    attributes.reinvocation.is_reinvoke = true;
    world.run(plugin, &mut attributes).await.expect("consent");
    let object = attributes.object.expect("an object");
    assert_eq!(object.get(&["data"]), Some(&json!({"one": "xx", "two": "x"})));
}

/// A policy of configmaps and its binding, by the paths of their lists.
fn policy(kind: &str, spec: Value, binding: Value) -> Vec<(String, Value)> {
    let list = |kind: &str, resource: &str, name: &str, spec: Value| {
        let one = json!({"metadata": {"name": name, "uid": name}, "spec": spec});
        let list = json!({"kind": format!("{kind}List"), "apiVersion": "admissionregistration.k8s.io/v1", "metadata": {}, "items": [one]});
        (format!("{HOOKS}/{resource}"), list)
    };
    let mut whole = json!({
        "failurePolicy": "Fail",
        "matchConstraints": {"matchPolicy": "Equivalent", "namespaceSelector": {}, "objectSelector": {},
            "resourceRules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}]},
    });
    for (key, value) in spec.as_object().into_iter().flatten() {
        whole[key] = value.clone();
    }
    let mut bound = json!({"policyName": "p", "validationActions": ["Deny"]});
    for (key, value) in binding.as_object().into_iter().flatten() {
        bound[key] = value.clone();
    }
    let resource = kind.to_lowercase().replace("policy", "");
    vec![
        list(kind, &format!("{resource}policies"), "p", whole),
        list(&format!("{kind}Binding"), &format!("{resource}policybindings"), "b", bound),
    ]
}

fn policy_world(objects: &[(String, Value)]) -> World {
    let objects: Vec<(&str, Value)> = objects.iter().map(|(path, o)| (path.as_str(), o.clone())).collect();
    world(&objects)
}

#[tokio::test]
async fn validating_policies_refuse_by_their_expressions() {
    let plugin = "ValidatingAdmissionPolicy";
    let with = |spec: Value, binding: Value| policy_world(&policy("ValidatingAdmissionPolicy", spec, binding));
    let refusal = async |spec: Value, binding: Value| {
        let mut attributes = config_map();
        let status = with(spec, binding).run(plugin, &mut attributes).await.err();
        (status.map(|s| (s.code, s.reason, s.message)), attributes.notes.take())
    };
    let good = json!({"validations": [{"expression": "object.metadata.name == 'c' && namespaceObject.metadata.labels.env == 'test'"}]});
    assert_eq!(refusal(good, json!({})).await.0, None);
    let bad = json!({
        "variables": [{"name": "n", "expression": "object.metadata.name"}, {"name": "m", "expression": "variables.n + '!'"}],
        "validations": [{"expression": "variables.m == 'x'", "messageExpression": "'it is ' + variables.m", "reason": "Forbidden"}],
        "auditAnnotations": [{"key": "k", "valueExpression": "'v' + request.operation"}],
    });
    let (status, notes) = refusal(bad.clone(), json!({})).await;
    let text = "configmaps \"c\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: it is c!";
    assert_eq!(status, Some((403, "Forbidden", text.to_owned())));
    assert_eq!(notes.annotations, [("p/k".to_owned(), "vCREATE".to_owned())]);
    let (status, notes) = refusal(bad, json!({"validationActions": ["Warn", "Audit"]})).await;
    assert_eq!(status, None);
    assert_eq!(notes.warnings, ["Validation failed for ValidatingAdmissionPolicy 'p' with binding 'b': it is c!"]);
    assert_eq!(notes.annotations.len(), 2);
    let unmatched = json!({"matchConditions": [{"name": "no", "expression": "request.operation == 'DELETE'"}],
        "validations": [{"expression": "false"}]});
    assert_eq!(refusal(unmatched, json!({})).await.0, None);
    let plain = json!({"validations": [{"expression": "1 == 2"}]});
    let (status, _) = refusal(plain, json!({})).await;
    let (code, reason, message) = status.expect("a refusal");
    assert_eq!((code, reason), (422, "Invalid"));
    assert!(message.ends_with("denied request: failed expression: 1 == 2"), "{message}");
    let broken = json!({"validations": [{"expression": "object.missing == 1"}]});
    let (status, _) = refusal(broken.clone(), json!({})).await;
    let message = status.expect("a refusal").2;
    assert!(message.ends_with("expression 'object.missing == 1' resulted in error: no such key: missing"), "{message}");
    let mut lenient = broken;
    lenient["failurePolicy"] = "Ignore".into();
    assert_eq!(refusal(lenient, json!({})).await.0, None);
    let asked =
        json!({"validations": [{"expression": "authorizer.group('').resource('pods').check('list').allowed()"}]});
    assert!(refusal(asked, json!({})).await.0.is_some());
    let asked = json!({"validations": [{"expression": "!authorizer.requestResource.check('delete').allowed()"}]});
    assert_eq!(refusal(asked, json!({})).await.0, None);
}

#[tokio::test]
async fn mutating_policies_patch_objects() {
    let plugin = "MutatingAdmissionPolicy";
    let spec = |expression: &str| {
        json!({"reinvocationPolicy": "Never",
            "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": expression}}]})
    };
    let with = |spec: Value| policy_world(&policy("MutatingAdmissionPolicy", spec, json!({})));
    let mut attributes = config_map();
    let add = spec("[JSONPatch{op: 'add', path: '/data/by', value: 'policy of ' + object.metadata.name}]");
    with(add).run(plugin, &mut attributes).await.expect("consent");
    assert!(attributes.reinvocation.should_reinvoke);
    assert_eq!(attributes.object.expect("an object").get(&["data"]), Some(&json!({"by": "policy of c"})));
    let world = with(spec("[JSONPatch{op: 'remove', path: '/no/such'}]"));
    let message = world.refusal(plugin, config_map()).await;
    assert!(message.starts_with("policy 'p' with binding 'b' denied request: JSON Patch: "), "{message}");
    let world = with(spec("[JSONPatch{op: 'add', path: '/unknown', value: 1}]"));
    let message = world.refusal(plugin, config_map()).await;
    assert_eq!(message, "Internal error occurred: strict decoding error: unknown field \"unknown\"");
}

#[tokio::test]
async fn webhooks_are_called_only_where_their_conditions_hold() {
    let plugin = "ValidatingAdmissionWebhook";
    let path = format!("{HOOKS}/validatingwebhookconfigurations");
    let answer: Answer = |_, _| json!({"allowed": false});
    let with = |expression: &str| {
        let conditions = json!({"matchConditions": [{"name": "c", "expression": expression}]});
        world_with(&[(&path, hooks("ValidatingWebhookConfiguration", &[("deny", conditions)]))], answer)
    };
    with("object.metadata.name == 'other'").run(plugin, &mut config_map()).await.expect("not called");
    with("object.metadata.name == 'c'").run(plugin, &mut config_map()).await.expect_err("called");
    let message = with("object.x.y == 1").refusal(plugin, config_map()).await;
    assert!(message.contains("expression 'object.x.y == 1' resulted in error: no such key: x"), "{message}");
}
