//! Webhooks and policies that come from files.

use std::path::Path;

use admission::{ChainError, ChainOptions};

use super::*;

const POLICY: &str = "ValidatingAdmissionPolicy";
const WEBHOOK: &str = "ValidatingAdmissionWebhook";

/// A folder with one file.
fn folder(text: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("a.yaml"), text).expect("a file");
    folder
}

/// The chain with a plugin that reads the folder.
fn chain(plugin: &str, folder: &Path) -> Result<Chain, ChainError> {
    let kind =
        if plugin == WEBHOOK { "WebhookAdmissionConfiguration" } else { "ValidatingAdmissionPolicyConfiguration" };
    let configuration = json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": kind, "staticManifestsDir": folder});
    let file = json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AdmissionConfiguration",
        "plugins": [{"name": plugin, "configuration": configuration}]});
    let place = tempfile::tempdir().expect("a folder");
    let path = place.path().join("admission.json");
    std::fs::write(&path, file.to_string()).expect("a file");
    let options = ChainOptions { config_file: Some(path), ..ChainOptions::default() };
    Chain::read(&options, &|_: &Path| Err(String::new()))
}

/// With nothing of the kind in the API.
fn world_reading(plugin: &str, folder: &Path) -> World {
    let list = |kind: &str| {
        let list = json!({"kind": kind, "apiVersion": "admissionregistration.k8s.io/v1", "metadata": {}, "items": []});
        (format!("/apis/admissionregistration.k8s.io/v1/{}", kind.trim_end_matches("List").to_lowercase() + "s"), list)
    };
    let lists = [
        list("ValidatingWebhookConfigurationList"),
        (
            "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies".to_owned(),
            list("ValidatingAdmissionPolicyList").1,
        ),
        list("ValidatingAdmissionPolicyBindingList"),
    ];
    let objects: Vec<(&str, Value)> = lists.iter().map(|(path, list)| (path.as_str(), list.clone())).collect();
    let deny = |path: &str, _: &Value| json!({"allowed": path != "no", "status": {"message": "the file says no"}});
    world_of(&objects, deny, &chain(plugin, folder).expect("a chain"))
}

fn policy(name: &str, expression: &str) -> String {
    format!(
        "apiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingAdmissionPolicy\nmetadata: {{name: {name}}}\nspec:\n  \
         matchConstraints: {{resourceRules: [{{apiGroups: ['*'], apiVersions: ['*'], operations: ['*'], resources: ['*'], scope: '*'}}], \
         matchPolicy: Equivalent, namespaceSelector: {{}}, objectSelector: {{}}}}\n  validations: [{{expression: \"{expression}\"}}]\n---\n\
         apiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingAdmissionPolicyBinding\nmetadata: {{name: {name}}}\n\
         spec: {{policyName: {name}, validationActions: [Deny]}}\n"
    )
}

fn webhook(name: &str, client: &str) -> String {
    format!(
        "apiVersion: v1\nkind: List\nitems:\n- apiVersion: admissionregistration.k8s.io/v1\n  kind: ValidatingWebhookConfiguration\n  \
         metadata: {{name: {name}}}\n  webhooks: [{{name: a.b.c, clientConfig: {client}, sideEffects: None, admissionReviewVersions: [v1], \
         failurePolicy: Fail, rules: [{{apiGroups: ['*'], apiVersions: ['*'], operations: ['*'], resources: ['*'], scope: '*'}}]}}]\n"
    )
}

/// Something to create, and a configuration to create.
fn requests() -> [Attributes; 2] {
    let object = Some(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "ns"}}));
    let mut own = request(Operation::Create, "configmaps", object.clone());
    own.gvk = Gvk::new("", "v1", "ConfigMap");
    let mut configuration = request(Operation::Create, "validatingwebhookconfigurations", object);
    configuration.resource.group = "admissionregistration.k8s.io".to_owned();
    [own, configuration]
}

#[tokio::test]
async fn policies_of_files_are_about_everything() {
    let folder = folder(&policy("a.static.k8s.io", "false"));
    let world = world_reading(POLICY, folder.path());
    for attributes in requests() {
        let why = world.refusal(POLICY, attributes).await;
        assert!(why.contains("'a.static.k8s.io' with binding 'a.static.k8s.io' denied request"), "{why}");
    }
}

#[tokio::test]
async fn webhooks_of_files_are_about_everything_but_reviews() {
    let folder = folder(&webhook("a.static.k8s.io", "{url: 'https://here/no'}"));
    let world = world_reading(WEBHOOK, folder.path());
    for attributes in requests() {
        assert_eq!(
            world.refusal(WEBHOOK, attributes).await,
            "admission webhook \"a.b.c\" denied the request: the file says no"
        );
    }
    let [mut review, _] = requests();
    review.resource = Gvr::new("authentication.k8s.io", "v1", "tokenreviews");
    world.run(WEBHOOK, &mut review).await.expect("nobody is asked about reviews");
}

#[tokio::test]
async fn changed_files_count_and_mistakes_leave_what_there_was() {
    let folder = folder(&policy("a.static.k8s.io", "false"));
    let world = world_reading(POLICY, folder.path());
    let [manifests] = world.manifests.as_slice() else { panic!("one folder") };
    let (file, now) = (folder.path().join("a.yaml"), jiff::Timestamp::UNIX_EPOCH);
    let refused = || async {
        let [mut attributes, _] = requests();
        world.run(POLICY, &mut attributes).await.is_err()
    };
    std::fs::write(&file, "kind: [").expect("a file");
    manifests.reload(now);
    assert!(refused().await);
    std::fs::write(&file, policy("a.static.k8s.io", "true")).expect("a file");
    manifests.reload(now);
    assert!(!refused().await);
    std::fs::write(&file, policy("b.static.k8s.io", "false")).expect("a file");
    manifests.reload(now);
    assert!(refused().await);
    std::fs::remove_file(&file).expect("no file");
    manifests.reload(now);
    assert!(!refused().await);
    let mut metrics = String::new();
    world.plugins.iter().for_each(|plugin| plugin.metrics(&mut metrics));
    let total = |status: &str, count: u64| {
        let line = format!("plugin=\"{POLICY}\",status=\"{status}\"}} {count}\n");
        assert!(metrics.contains(&line), "{metrics}");
    };
    total("failure", 1);
    total("success", 4);
}

#[tokio::test]
async fn a_chain_whose_files_are_wrong_is_not_made() {
    let check = |plugin: &str, text: &str, want: &str| {
        let folder = folder(text);
        let client = Client::in_memory(
            tower::service_fn(|_: Request<Body>| async { Ok::<_, Infallible>(Response::new(Full::new(Bytes::new()))) }),
            UserInfo::new("test", &[]),
        );
        let informers = Informers::new(client.clone(), Shutdown::new());
        let chain = chain(plugin, folder.path()).expect("a chain");
        let now = ("test", jiff::Timestamp::UNIX_EPOCH);
        let made = admission::plugins(&chain, (client, informers), services(|_, _| Value::Null), now);
        let why = made.err().expect("a mistake").to_string();
        let file = folder.path().join("a.yaml");
        assert!(why.ends_with(&want.replace("FILE", &file.display().to_string())), "{why}");
    };
    check(
        POLICY,
        &policy("a", "true"),
        "error loading FILE: \"a\" in file \"FILE\" must have a name ending with \".static.k8s.io\"",
    );
    let twice = policy("a.static.k8s.io", "true")
        .repeat(2)
        .replacen("---", "---\n---", 1)
        .replace("[Deny]}\napi", "[Deny]}\n---\napi");
    check(POLICY, &twice, "duplicate name \"a.static.k8s.io\" found in file \"FILE\" (previously seen in \"FILE\")");
    let lonely = policy("a.static.k8s.io", "true").replace("policyName: a", "policyName: b");
    let why = "binding \"a.static.k8s.io\" references policy \"b.static.k8s.io\" which does not exist in the manifest directory";
    check(POLICY, &lonely, why);
    check(
        POLICY,
        &webhook("a.static.k8s.io", "{url: 'https://a'}"),
        "unsupported resource type *v1.ValidatingWebhookConfiguration",
    );
    let service = "{service: {name: a, namespace: b}}";
    let why = "clientConfig.service is not supported for static manifests; use clientConfig.url instead";
    check(WEBHOOK, &webhook("a.static.k8s.io", service), why);
    let why = chain(POLICY, Path::new("relative")).err().expect("a mistake").to_string();
    assert!(why.ends_with("staticManifestsDir: Invalid value: \"relative\": must be an absolute file path"), "{why}");
}
