//! Plugins that are off unless asked for, and what the configuration file says of others.

use std::path::Path;

use admission::{Chain, ChainOptions, ImageReviewer, NoAnswer};

use super::*;

/// Denies every image whose name has `bad` in it; does not answer about `away`.
struct Images;

#[async_trait]
impl ImageReviewer for Images {
    async fn review(&self, review: Bytes) -> Result<Bytes, NoAnswer> {
        let review: Value = serde_json::from_slice(&review).expect("a review");
        let asked = review["spec"]["containers"].to_string();
        if asked.contains("away") {
            return Err(NoAnswer { text: "nobody there".to_owned(), is_passing: true });
        }
        let status = if asked.contains("bad") {
            json!({"allowed": false, "reason": "it is bad", "auditAnnotations": {"k": "v"}})
        } else {
            json!({"allowed": true})
        };
        Ok(json!({"kind": "ImageReview", "status": status}).to_string().into())
    }
}

/// With one more plugin and its part of the configuration file.
fn with(plugin: &str, configuration: Value, objects: &[(&str, Value)]) -> World {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("admission.json");
    let file = json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AdmissionConfiguration",
        "plugins": [{"name": plugin, "configuration": configuration}]});
    std::fs::write(&path, file.to_string()).expect("a file");
    let options = ChainOptions { enable: vec![plugin.to_owned()], config_file: Some(path), ..ChainOptions::default() };
    let make = |_: &Path| Ok(Arc::new(Images) as Arc<dyn ImageReviewer>);
    let chain = Chain::read(&options, &make).expect("a chain");
    world_of(objects, |_, _| Value::Null, &chain)
}

fn annotated(annotations: Value) -> Value {
    let mut namespace = namespace(false);
    namespace["metadata"]["annotations"] = annotations;
    namespace
}

const NAMESPACE: &str = "/api/v1/namespaces/ns";

async fn made(world: &World, plugin: &str, spec: Value) -> Result<Object, String> {
    let mut attributes = request(Operation::Create, "pods", pod(spec));
    world.run(plugin, &mut attributes).await.map_err(|status| status.message)?;
    Ok(attributes.object.expect("the pod"))
}

#[tokio::test]
async fn images_are_always_pulled() {
    let plugin = "AlwaysPullImages";
    let world = with(plugin, Value::Null, &[]);
    let spec = json!({"containers": [{"name": "c", "image": "a"}], "initContainers": [{"name": "i", "image": "b",
        "imagePullPolicy": "Never"}], "volumes": [{"name": "v", "image": {"reference": "r"}}]});
    let pod = made(&world, plugin, spec).await.expect("a pod");
    assert_eq!(pod.array(&["spec", "containers"])[0]["imagePullPolicy"], "Always");
    assert_eq!(pod.array(&["spec", "initContainers"])[0]["imagePullPolicy"], "Always");
    assert_eq!(pod.array(&["spec", "volumes"])[0]["image"]["pullPolicy"], "Always");
    let plugin = world.plugins.iter().find(|p| p.name() == plugin).expect("the plugin");
    let spec = json!({"containers": [{"name": "c", "image": "a", "imagePullPolicy": "Never"}]});
    let attributes = request(Operation::Create, "pods", super::pod(spec));
    let refused = plugin.validate(&attributes).await.expect_err("a refusal");
    assert_eq!(
        (refused.code, refused.message.as_str()),
        (
            500,
            "pods \"p\" is forbidden: spec.containers[0].imagePullPolicy: Unsupported value: \"Never\": supported values: \
             \"Always\""
        )
    );
    // An update without a new image is nobody's business.
    let update = Attributes { old_object: attributes.object.clone(), operation: Operation::Update, ..attributes };
    plugin.validate(&update).await.expect("an update");
}

#[tokio::test]
async fn services_get_no_new_external_addresses() {
    let plugin = "DenyServiceExternalIPs";
    let world = with(plugin, Value::Null, &[]);
    let service = |ips: Value| Some(json!({"metadata": {"name": "s"}, "spec": {"externalIPs": ips}}));
    let create = request(Operation::Create, "services", service(json!(["1.2.3.4"])));
    assert_eq!(
        world.refusal(plugin, create).await,
        "services \"s\" is forbidden: Use of external IPs is denied by admission control"
    );
    let mut fewer = request(Operation::Update, "services", service(json!(["1.2.3.4"])));
    fewer.old_object = service(json!(["1.2.3.4", "5.6.7.8"])).and_then(Object::from_value);
    world.run(plugin, &mut fewer).await.expect("fewer addresses");
}

#[tokio::test]
async fn pods_keep_others_off_hosts_alone() {
    let plugin = "LimitPodHardAntiAffinityTopology";
    let world = with(plugin, Value::Null, &[]);
    let spec = |key: &str| json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": key}]}}});
    made(&world, plugin, spec("kubernetes.io/hostname")).await.expect("a pod");
    assert_eq!(
        made(&world, plugin, spec("zone")).await.unwrap_err(),
        "pods \"p\" is forbidden: affinity.PodAntiAffinity.RequiredDuringScheduling has TopologyKey zone but only key \
         kubernetes.io/hostname is allowed"
    );
}

#[tokio::test]
async fn extended_resources_are_tolerated() {
    let plugin = "ExtendedResourceToleration";
    let world = with(plugin, Value::Null, &[]);
    let spec = json!({"containers": [{"resources": {"requests": {"x.io/b": 1, "cpu": 1, "kubernetes.io/n": 1}}}],
        "initContainers": [{"resources": {"requests": {"x.io/a": 1}}}],
        "tolerations": [{"key": "x.io/a", "operator": "Exists", "effect": "NoSchedule", "tolerationSeconds": 3}]});
    let pod = made(&world, plugin, spec).await.expect("a pod");
    let tolerated = |key: &str| json!({"key": key, "operator": "Exists", "effect": "NoSchedule"});
    assert_eq!(pod.array(&["spec", "tolerations"]), [tolerated("x.io/a"), tolerated("x.io/b")]);
}

#[tokio::test]
async fn everything_is_in_a_namespace_that_exists() {
    let plugin = "NamespaceExists";
    let update = || request(Operation::Update, "configmaps", Some(json!({"metadata": {"name": "c"}})));
    let missing = with(plugin, Value::Null, &[]);
    assert_eq!(missing.refusal(plugin, update()).await, "namespaces \"ns\" not found");
    let world = with(plugin, Value::Null, &[(NAMESPACE, namespace(false))]);
    world.run(plugin, &mut update()).await.expect("an update");
}

#[tokio::test]
async fn nothing_at_all_is_admitted() {
    let plugin = "AlwaysDeny";
    let create = request(Operation::Create, "configmaps", Some(json!({"metadata": {"name": "c"}})));
    assert_eq!(
        with(plugin, Value::Null, &[]).refusal(plugin, create).await,
        "configmaps \"c\" is forbidden: admission control is denying all modifications"
    );
}

#[tokio::test]
async fn namespaces_select_nodes() {
    let plugin = "PodNodeSelector";
    let configuration =
        json!({"podNodeSelectorPluginConfig": {"clusterDefaultNodeSelector": "d=1", "ns": "a=b,d=1,e=f"}});
    let plain = with(plugin, configuration.clone(), &[(NAMESPACE, namespace(false))]);
    let pod = made(&plain, plugin, json!({"nodeSelector": {"a": "b"}})).await.expect("a pod");
    assert_eq!(pod.get(&["spec", "nodeSelector"]), Some(&json!({"a": "b", "d": "1"})));
    assert_eq!(
        made(&plain, plugin, json!({"nodeSelector": {"d": "2"}})).await.unwrap_err(),
        "pods \"p\" is forbidden: pod node label selector conflicts with its namespace node label selector"
    );
    assert_eq!(
        made(&plain, plugin, json!({"nodeSelector": {"x": "y"}})).await.unwrap_err(),
        "pods \"p\" is forbidden: pod node label selector labels conflict with its namespace whitelist"
    );
    let own = annotated(json!({"scheduler.alpha.kubernetes.io/node-selector": "e=f"}));
    let world = with(plugin, configuration, &[(NAMESPACE, own)]);
    let pod = made(&world, plugin, json!({})).await.expect("a pod");
    assert_eq!(pod.get(&["spec", "nodeSelector"]), Some(&json!({"e": "f"})));
}

#[tokio::test]
async fn namespaces_say_what_is_tolerated() {
    let plugin = "PodTolerationRestriction";
    let configuration = json!({"apiVersion": "podtolerationrestriction.admission.k8s.io/v1alpha1", "kind": "Configuration",
        "default": [{"key": "d", "operator": "Exists"}], "whitelist": [{"key": "d", "operator": "Exists"}]});
    let plain = with(plugin, configuration.clone(), &[(NAMESPACE, namespace(false))]);
    let pod = made(&plain, plugin, json!({})).await.expect("a pod");
    assert_eq!(pod.array(&["spec", "tolerations"]), [json!({"key": "d", "operator": "Exists"})]);
    let what = "pod tolerations (possibly merged with namespace default tolerations) conflict with its";
    let other = json!({"tolerations": [{"key": "x", "operator": "Exists"}]});
    assert_eq!(made(&plain, plugin, other.clone()).await.unwrap_err(), format!("{what} cluster whitelist"));
    let own = annotated(json!({"scheduler.alpha.kubernetes.io/defaultTolerations": "",
        "scheduler.alpha.kubernetes.io/tolerationsWhitelist": "[{\"key\": \"y\", \"operator\": \"Exists\"}]"}));
    let world = with(plugin, configuration, &[(NAMESPACE, own)]);
    assert_eq!(made(&world, plugin, other).await.unwrap_err(), format!("{what} namespace whitelist"));
    made(&world, plugin, json!({})).await.expect("a pod without tolerations");
    // Pods that ask for something go on a node that is short of memory.
    let busy = json!({"containers": [{"resources": {"requests": {"cpu": "1"}}}]});
    assert_eq!(made(&world, plugin, busy).await.unwrap_err(), format!("{what} namespace whitelist"));
}

#[tokio::test(start_paused = true)]
async fn events_come_at_a_rate() {
    let plugin = "EventRateLimit";
    let configuration = json!({"apiVersion": "eventratelimit.admission.k8s.io/v1alpha1", "kind": "Configuration",
        "limits": [{"type": "Server", "qps": 10, "burst": 100}, {"type": "Namespace", "qps": 1, "burst": 2}]});
    let world = with(plugin, configuration, &[]);
    let event = || request(Operation::Create, "events", Some(json!({"metadata": {"name": "e"}})));
    for _ in 0..2 {
        world.run(plugin, &mut event()).await.expect("an event");
    }
    let status = world.run(plugin, &mut event()).await.expect_err("too many");
    assert_eq!(
        (status.code, status.message.as_str()),
        (429, "Too many requests: limit reached on type Namespace for key ns")
    );
    let dry = Attributes { dry_run: true, ..event() };
    world.run(plugin, &mut { dry }).await.expect("a dry run");
    tokio::time::advance(std::time::Duration::from_secs(1)).await;
    world.run(plugin, &mut event()).await.expect("an event a second later");
}

#[test]
fn a_limit_of_events_must_be_told() {
    let options = ChainOptions { enable: vec!["EventRateLimit".to_owned()], ..ChainOptions::default() };
    let make = |_: &Path| Ok(Arc::new(Images) as Arc<dyn ImageReviewer>);
    let error = Chain::read(&options, &make).err().expect("an error");
    assert!(
        error.to_string().starts_with("couldn't init admission plugin \"EventRateLimit\": limits: Invalid value: ")
    );
    let options = ChainOptions { enable: vec!["ImagePolicyWebhook".to_owned()], ..ChainOptions::default() };
    let error = Chain::read(&options, &make).err().expect("an error");
    assert_eq!(error.to_string(), "couldn't init admission plugin \"ImagePolicyWebhook\": no config specified");
}

#[tokio::test(start_paused = true)]
async fn a_service_says_which_images_run() {
    let plugin = "ImagePolicyWebhook";
    let policy = |open: bool| json!({"imagePolicy": {"kubeConfigFile": "/x", "defaultAllow": open}});
    let world = with(plugin, policy(false), &[]);
    let spec = |image: &str| json!({"containers": [{"image": image}]});
    made(&world, plugin, spec("good")).await.expect("a good image");
    assert_eq!(
        made(&world, plugin, spec("bad")).await.unwrap_err(),
        "pods \"p\" is forbidden: image policy webhook backend denied one or more images: it is bad"
    );
    assert_eq!(made(&world, plugin, spec("away")).await.unwrap_err(), "pods \"p\" is forbidden: nobody there");
    let open = with(plugin, policy(true), &[]);
    let mut attributes = request(Operation::Create, "pods", pod(spec("away")));
    open.run(plugin, &mut attributes).await.expect("an image that nobody judged");
    let noted = attributes.notes.take().annotations;
    assert_eq!(noted, [("imagepolicywebhook.image-policy.k8s.io/failed-open".to_owned(), "true".to_owned())]);
}

#[tokio::test]
async fn owners_are_set_by_those_who_may() {
    let plugin = "OwnerReferencesPermissionEnforcement";
    let world = with(plugin, Value::Null, &[]);
    let owned = |blocks: bool| {
        let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": "o", "uid": "u", "blockOwnerDeletion": blocks});
        Some(json!({"metadata": {"name": "c", "ownerReferences": [owner]}}))
    };
    world.run(plugin, &mut request(Operation::Create, "configmaps", owned(false))).await.expect("a creation");
    let mut update = request(Operation::Update, "configmaps", owned(false));
    update.old_object = Object::from_value(json!({"metadata": {"name": "c"}}));
    assert_eq!(
        world.refusal(plugin, update).await,
        "configmaps \"c\" is forbidden: cannot set an ownerRef on a resource you can't delete: , <nil>"
    );
    assert_eq!(
        world.refusal(plugin, request(Operation::Create, "configmaps", owned(true))).await,
        "configmaps \"c\" is forbidden: cannot set blockOwnerDeletion in this case because cannot find RESTMapping for \
         APIVersion v1 Kind Pod: no matches for kind \"Pod\" in version \"v1\""
    );
}

#[tokio::test]
async fn pod_security_has_defaults_and_exemptions() {
    let plugin = "PodSecurity";
    let configuration = json!({"apiVersion": "pod-security.admission.config.k8s.io/v1", "kind": "PodSecurityConfiguration",
        "defaults": {"enforce": "baseline", "enforce-version": "v1.30"},
        "exemptions": {"usernames": ["root"], "runtimeClasses": ["vm"], "namespaces": ["free"]}});
    let world = with(plugin, configuration, &[(NAMESPACE, namespace(false))]);
    let spec = |class: Value| json!({"hostNetwork": true, "runtimeClassName": class, "containers": [{"name": "c"}]});
    let refused = made(&world, plugin, spec(Value::Null)).await.unwrap_err();
    assert_eq!(
        refused,
        "pods \"p\" is forbidden: violates PodSecurity \"baseline:v1.30\": host namespaces (hostNetwork=true)"
    );
    let exempt = async |change: fn(&mut Attributes), spec: Value| {
        let mut attributes = request(Operation::Create, "pods", pod(spec));
        change(&mut attributes);
        world.run(plugin, &mut attributes).await.expect("an exemption");
        attributes.notes.take().annotations[0].1.clone()
    };
    assert_eq!(exempt(|a| a.user = UserInfo::new("root", &[]), spec(Value::Null)).await, "user");
    assert_eq!(exempt(|a| a.namespace = "free".to_owned(), spec(Value::Null)).await, "namespace");
    assert_eq!(exempt(|_| (), spec("vm".into())).await, "runtimeClass");
    let labelled =
        json!({"metadata": {"name": "free", "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}});
    let mut attributes = request(Operation::Create, "namespaces", Some(labelled));
    attributes.namespace = "free".to_owned();
    world.run(plugin, &mut attributes).await.expect("a namespace");
    assert_eq!(
        attributes.notes.take().warnings,
        ["namespace \"free\" is exempt from Pod Security, and the policy (enforce=restricted:v1.30) will be ignored"]
    );
    let mut out = String::new();
    world.plugins.iter().for_each(|plugin| plugin.metrics(&mut out));
    let deny = "pod_security_evaluations_total{decision=\"deny\",mode=\"enforce\",policy_level=\"baseline\",policy_version=\
                \"v1.30\",request_operation=\"create\",resource=\"pod\",subresource=\"\"} 1";
    let exempt = "pod_security_exemptions_total{request_operation=\"create\",resource=\"pod\",subresource=\"\"} 3";
    assert!(out.contains(deny) && out.contains(exempt), "{out}");
}

#[tokio::test]
async fn limited_resources_need_a_quota() {
    let plugin = "ResourceQuota";
    let configuration = json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "ResourceQuotaConfiguration",
        "limitedResources": [
            {"apiGroup": "", "resource": "persistentvolumeclaims", "matchContains": ["gold.storageclass"]},
            {"apiGroup": "", "resource": "pods",
                "matchScopes": [{"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}]}]});
    let quotas = |items: Value| {
        let list = json!({"kind": "ResourceQuotaList", "apiVersion": "v1", "metadata": {}, "items": items});
        with(plugin, configuration.clone(), &[("/api/v1/namespaces/ns/resourcequotas", list)])
    };
    let world = quotas(json!([]));
    let claim = |class: &str| {
        let spec = json!({"storageClassName": class, "resources": {"requests": {"storage": "1Gi"}}});
        request(Operation::Create, "persistentvolumeclaims", Some(json!({"metadata": {"name": "c"}, "spec": spec})))
    };
    world.run(plugin, &mut claim("silver")).await.expect("a claim of another class");
    assert_eq!(
        world.refusal(plugin, claim("gold")).await,
        "persistentvolumeclaims \"c\" is forbidden: insufficient quota to consume: \
         gold.storageclass.storage.k8s.io/persistentvolumeclaims,gold.storageclass.storage.k8s.io/requests.storage"
    );
    let important = || json!({"priorityClassName": "high", "containers": [{"name": "c"}]});
    made(&world, plugin, json!({"containers": [{"name": "c"}]})).await.expect("a plain pod");
    assert_eq!(
        made(&world, plugin, important()).await.unwrap_err(),
        "insufficient quota to match these scopes: [{PriorityClass In [high]}]"
    );
    let covering = json!({"metadata": {"name": "q", "namespace": "ns"}, "spec": {"scopeSelector": {"matchExpressions": [
        {"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}]}},
        "status": {"hard": {"pods": "0"}, "used": {"pods": "0"}}});
    let refused = made(&quotas(json!([covering])), plugin, important()).await.unwrap_err();
    assert!(refused.contains("exceeded quota: q"), "{refused}");
}

#[tokio::test]
async fn pods_grow_as_far_as_their_node_reaches() {
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "labels": {"kubernetes.io/os": "linux"}},
        "status": {"allocatable": {"cpu": "2", "memory": "1Gi"}, "declaredFeatures": ["B"]}});
    let world = with("AlwaysAdmit", Value::Null, &[("/api/v1/nodes/n", node)]);
    let resize = |cpu: &str, init: &str| {
        let object = |cpu: &str, init: &str, generation: u32| {
            let requests = |cpu: &str| json!({"requests": {"cpu": cpu}});
            Object::from_value(json!({"metadata": {"name": "p", "generation": generation}, "spec": {"nodeName": "n",
                "containers": [{"resources": requests(cpu)}], "initContainers": [{"resources": requests(init)}]}}))
        };
        let mut attributes = request(Operation::Update, "pods", None);
        attributes.subresource = "resize".to_owned();
        attributes.name = "p".to_owned();
        (attributes.object, attributes.old_object) = (object(cpu, init, 2), object("1", "1", 1));
        attributes
    };
    world.run("PodResizeValidator", &mut resize("2", "1")).await.expect("what fits");
    let status = world.run("PodResizeValidator", &mut resize("2500m", "1")).await.expect_err("too much");
    assert_eq!(
        status.message,
        "pods \"p\" is forbidden: node didn't have enough allocatable resources: cpu, requested: 2500, allocatable: 2000"
    );
    assert_eq!(status.details.expect("details").causes[0].reason, "NodeCapacity");
    world.run("NodeDeclaredFeatureValidator", &mut resize("2", "1")).await.expect("what every node can do");
    assert_eq!(
        world.refusal("NodeDeclaredFeatureValidator", resize("1", "2")).await,
        "pods \"p\" is forbidden: pod update requires features InPlacePodVerticalScalingInitContainers which are not \
         available on node \"n\""
    );
}

#[tokio::test]
async fn trust_bundles_are_written_by_those_who_attest() {
    let world = world(&[]);
    let bundle = |signer: &str| {
        let object = json!({"metadata": {"name": "b"}, "spec": {"signerName": signer, "trustBundle": "x"}});
        let mut attributes = request(Operation::Create, "clustertrustbundles", Some(object));
        attributes.resource = Gvr::new("certificates.k8s.io", "v1", "clustertrustbundles");
        attributes
    };
    world.run("ClusterTrustBundleAttest", &mut bundle("")).await.expect("a bundle of nobody");
    assert_eq!(
        world.refusal("ClusterTrustBundleAttest", bundle("a.b/c")).await,
        "clustertrustbundles.certificates.k8s.io \"b\" is forbidden: user not permitted to attest for signerName \"a.b/c\""
    );
}
