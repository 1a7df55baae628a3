//! clients KUBECONFIG: what programs on kube-rs do, against real containers. Ends with 'N passed, N failed'.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures::{AsyncBufReadExt, StreamExt, TryStreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, ServiceAccount};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{
    Api, AttachParams, DeleteParams, DynamicObject, EvictParams, ListParams, LogParams, Patch, PatchParams, PostParams,
    WatchEvent, WatchParams,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::PartialObjectMeta;
use kube::runtime::controller::Action;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::finalizer::{Event as Finalizer, finalizer};
use kube::runtime::wait::{await_condition, conditions};
use kube::runtime::{Controller, WatchStreamExt, reflector, watcher};
use kube::{Client, CustomResource, CustomResourceExt, Discovery, Resource, ResourceExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const BOX: &str = "registry.k8s.io/e2e-test-images/busybox:1.37.0-1";
const AGN: &str = "registry.k8s.io/e2e-test-images/agnhost:2.63.0";

/// A kind whose objects become ConfigMaps with as many keys.
#[derive(CustomResource, Deserialize, Serialize, Clone, Debug, JsonSchema)]
#[kube(group = "rust.example", version = "v1", kind = "Toy", namespaced, status = "ToyStatus", shortname = "ty")]
#[kube(scale(spec_replicas_path = ".spec.size", status_replicas_path = ".status.made"))]
#[kube(printcolumn(name = "Size", type_ = "integer", json_path = ".spec.size"))]
struct ToySpec {
    #[schemars(range(min = 1))]
    size: i32,
}

#[derive(Deserialize, Serialize, Clone, Debug, Default, JsonSchema)]
struct ToyStatus {
    made: i32,
}

struct Try {
    client: Client,
    namespace: String,
}

fn code(error: &kube::Error) -> u16 {
    match error {
        kube::Error::Api(status) => status.code,
        _ => 0,
    }
}

async fn within<T>(seconds: u64, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(Duration::from_secs(seconds), work).await.context("not in time")?
}

impl Try {
    fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    async fn pod(&self, name: &str, image: &str, command: &[&str]) -> Result<()> {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {"app": name}},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": image, "command": command}]},
        }))?;
        self.api::<Pod>().create(&PostParams::default(), &pod).await?;
        within(60, async { Ok(await_condition(self.api::<Pod>(), name, conditions::is_pod_running()).await?) }).await?;
        Ok(())
    }

    fn map(&self, name: &str, value: &str) -> ConfigMap {
        let labels = [("rust".to_owned(), "1".to_owned())].into();
        let mut map = ConfigMap { data: Some([("k".to_owned(), value.to_owned())].into()), ..ConfigMap::default() };
        map.metadata.name = Some(name.to_owned());
        map.metadata.labels = Some(labels);
        map
    }

    async fn objects(&self) -> Result<()> {
        let maps = self.api::<ConfigMap>();
        let made = maps.create(&PostParams::default(), &self.map("one", "v")).await?;
        let again = maps.create(&PostParams::default(), &self.map("one", "v")).await.expect_err("twice");
        ensure!(code(&again) == 409, "{again}");
        let mut newer = made.clone();
        newer.data = self.map("", "w").data;
        maps.replace("one", &PostParams::default(), &newer).await?;
        let late = maps.replace("one", &PostParams::default(), &newer).await.expect_err("an old version");
        ensure!(code(&late) == 409 && late.to_string().contains("the object has been modified"), "{late}");
        for (patch, value) in [
            (Patch::Merge(json!({"data": {"k": "merge"}})), "merge"),
            (Patch::Strategic(json!({"data": {"k": "strategic"}})), "strategic"),
            (
                Patch::Json(serde_json::from_value(json!([{"op": "replace", "path": "/data/k", "value": "json"}]))?),
                "json",
            ),
        ] {
            let after = maps.patch("one", &PatchParams::default(), &patch).await?;
            ensure!(after.data.as_ref().and_then(|d| d.get("k")).is_some_and(|v| v == value), "{after:?}");
        }
        ensure!(maps.get_opt("none").await?.is_none(), "there is none");
        let meta = maps.get_metadata("one").await?;
        ensure!(meta.types.as_ref().is_some_and(|t| t.kind == "PartialObjectMetadata"), "{meta:?}");
        let mut entry = maps.entry("one").await?.or_insert(ConfigMap::default);
        entry.get_mut().data = None;
        entry.commit(&PostParams::default()).await?;
        ensure!(maps.delete("one", &DeleteParams::default()).await?.right().is_some(), "no Status");
        Ok(())
    }

    async fn apply(&self) -> Result<()> {
        let maps = self.api::<ConfigMap>();
        let object = |value: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ssa"}, "data": {"k": value}});
        maps.patch("ssa", &PatchParams::apply("one"), &Patch::Apply(object("1"))).await?;
        let conflict =
            maps.patch("ssa", &PatchParams::apply("two"), &Patch::Apply(object("2"))).await.expect_err("no conflict");
        ensure!(conflict.to_string().contains("conflict with \"one\": .data.k"), "{conflict}");
        let after = maps.patch("ssa", &PatchParams::apply("two").force(), &Patch::Apply(object("2"))).await?;
        let managers: Vec<_> = after.managed_fields().iter().filter_map(|f| f.manager.clone()).collect();
        ensure!(managers == ["two"], "{managers:?}");
        Ok(())
    }

    async fn pages_and_streams(&self) -> Result<()> {
        let maps = self.api::<ConfigMap>();
        for n in 0..7 {
            maps.create(&PostParams::default(), &self.map(&format!("p{n}"), "v")).await?;
        }
        let mut names = Vec::new();
        let mut params = ListParams::default().labels("rust=1").limit(3);
        loop {
            let page = maps.list(&params).await?;
            names.extend(page.items.iter().map(ResourceExt::name_any));
            match page.metadata.continue_.filter(|next| !next.is_empty()) {
                Some(next) => params = params.continue_token(&next),
                None => break,
            }
        }
        ensure!(names == ["p0", "p1", "p2", "p3", "p4", "p5", "p6"], "{names:?}");
        for config in [watcher::Config::default(), watcher::Config::default().streaming_lists()] {
            let mut found = pin!(watcher(maps.clone(), config.labels("rust=1")).default_backoff());
            let mut seen = 0;
            within(20, async {
                while let Some(event) = found.try_next().await? {
                    match event {
                        watcher::Event::InitApply(_) => seen += 1,
                        watcher::Event::InitDone => break,
                        _ => {}
                    }
                }
                Ok(())
            })
            .await?;
            ensure!(seen == 7, "{seen}");
        }
        maps.delete_collection(&DeleteParams::default(), &ListParams::default().labels("rust=1")).await?;
        ensure!(maps.list(&ListParams::default().labels("rust=1")).await?.items.is_empty(), "some are left");
        Ok(())
    }

    async fn watches(&self) -> Result<()> {
        let maps = self.api::<ConfigMap>();
        let from = maps.list(&ListParams::default()).await?.metadata.resource_version.context("no version")?;
        let mut events = pin!(maps.watch(&WatchParams::default().timeout(20), &from).await?);
        maps.create(&PostParams::default(), &self.map("w", "v")).await?;
        maps.delete("w", &DeleteParams::default()).await?;
        let mut seen = Vec::new();
        while let Some(event) = events.try_next().await? {
            match event {
                WatchEvent::Added(map) => seen.push(format!("added {}", map.name_any())),
                WatchEvent::Deleted(map) => seen.push(format!("deleted {}", map.name_any())),
                _ => {}
            }
            if seen.len() == 2 {
                break;
            }
        }
        ensure!(seen == ["added w", "deleted w"], "{seen:?}");
        let old = maps.watch(&WatchParams::default(), "1").await;
        let gone = match old {
            Ok(events) => pin!(events)
                .try_next()
                .await?
                .is_some_and(|e| matches!(e, WatchEvent::Error(status) if status.code == 410)),
            Err(error) => code(&error) == 410,
        };
        ensure!(gone, "a watch from version 1 goes on");
        Ok(())
    }

    async fn reflectors(&self) -> Result<()> {
        let (reader, writer) = reflector::store::<PartialObjectMeta<ConfigMap>>();
        let metadata: Api<PartialObjectMeta<ConfigMap>> = Api::namespaced(self.client.clone(), &self.namespace);
        let stream = watcher(metadata, watcher::Config::default());
        let mut stream = pin!(stream.default_backoff().reflect(writer).applied_objects());
        let follow = async {
            while stream.try_next().await?.is_some() {}
            bail!("the watcher ended")
        };
        let look = async {
            reader.wait_until_ready().await?;
            self.api::<ConfigMap>().create(&PostParams::default(), &self.map("reflected", "v")).await?;
            while !reader.state().iter().any(|map| map.name_any() == "reflected") {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Ok(())
        };
        within(20, async {
            tokio::select! { result = follow => result, result = look => result }
        })
        .await
    }

    async fn sessions(&self) -> Result<()> {
        self.pod("box", BOX, &["sleep", "600"]).await?;
        let pods = self.api::<Pod>();
        let params = AttachParams::default().stdin(true).stdout(true).stderr(true);
        let mut run = pods.exec("box", ["sh", "-c", "read a; echo got $a; echo bad >&2; exit 3"], &params).await?;
        let (mut stdin, mut stdout, mut stderr) =
            (run.stdin().context("in")?, run.stdout().context("out")?, run.stderr().context("err")?);
        let status = run.take_status().context("status")?;
        stdin.write_all(b"this\n").await?;
        let (mut out, mut err) = (String::new(), String::new());
        tokio::try_join!(stdout.read_to_string(&mut out), stderr.read_to_string(&mut err))?;
        ensure!((out.as_str(), err.as_str()) == ("got this\n", "bad\n"), "{out} {err}");
        let status = status.await.context("no status")?;
        ensure!(status.reason.as_deref() == Some("NonZeroExitCode"), "{status:?}");
        // The end of the input reaches the process.
        let mut cat = pods.exec("box", ["cat"], &AttachParams::default().stdin(true).stderr(false)).await?;
        let (mut stdin, mut stdout) = (cat.stdin().context("in")?, cat.stdout().context("out")?);
        let sent = vec![b'x'; 300_000];
        let write = async {
            stdin.write_all(&sent).await?;
            stdin.shutdown().await
        };
        let mut got = Vec::new();
        let (_, _) = tokio::try_join!(write, stdout.read_to_end(&mut got))?;
        ensure!(got == sent, "{} of {}", got.len(), sent.len());
        Ok(())
    }

    async fn logs(&self) -> Result<()> {
        self.pod("says", BOX, &["sh", "-c", "for i in 1 2 3; do echo line $i; done; sleep 600"]).await?;
        let pods = self.api::<Pod>();
        let follow = LogParams { follow: true, ..LogParams::default() };
        let lines: Vec<_> =
            within(20, async { Ok(pods.log_stream("says", &follow).await?.lines().take(3).try_collect().await?) })
                .await?;
        ensure!(lines == ["line 1", "line 2", "line 3"], "{lines:?}");
        let tail = pods.logs("says", &LogParams { tail_lines: Some(1), ..LogParams::default() }).await?;
        ensure!(tail == "line 3\n", "{tail}");
        Ok(())
    }

    async fn forward(&self) -> Result<()> {
        self.pod("web", AGN, &["/agnhost", "netexec", "--http-port=8080"]).await?;
        let pods = self.api::<Pod>();
        for _ in 0..100 {
            let mut forward = pods.portforward("web", &[8080]).await?;
            let mut stream = forward.take_stream(8080).context("no stream")?;
            stream.write_all(b"GET /hostname HTTP/1.0\r\n\r\n").await?;
            let mut text = String::new();
            let _early = stream.read_to_string(&mut text).await;
            if text.ends_with("web") {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        bail!("no answer through the tunnel")
    }

    async fn subresources(&self) -> Result<()> {
        let deployments = self.api::<Deployment>();
        let deployment: Deployment = serde_json::from_value(json!({"metadata": {"name": "d"}, "spec": {
            "replicas": 1, "selector": {"matchLabels": {"app": "d"}}, "template": {"metadata": {"labels": {"app": "d"}},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": BOX, "command": ["sleep", "600"]}]}}}}))?;
        deployments.create(&PostParams::default(), &deployment).await?;
        within(60, async {
            Ok(await_condition(deployments.clone(), "d", conditions::is_deployment_completed()).await?)
        })
        .await?;
        let scale = deployments
            .patch_scale("d", &PatchParams::default(), &Patch::Merge(json!({"spec": {"replicas": 2}})))
            .await?;
        ensure!(scale.spec.and_then(|s| s.replicas) == Some(2), "scale");
        deployments.restart("d").await?;
        let annotations = deployments.get("d").await?.spec.template.metadata.and_then(|m| m.annotations);
        ensure!(
            annotations.is_some_and(|a| a.contains_key("kube.kubernetes.io/restartedAt")
                || a.contains_key("kubectl.kubernetes.io/restartedAt")),
            "restart"
        );
        self.api::<Pod>().evict("box", &EvictParams::default()).await?;
        deployments.delete("d", &DeleteParams::foreground()).await?;
        Ok(())
    }

    async fn discovery(&self) -> Result<()> {
        let discovery = Discovery::new(self.client.clone()).run_aggregated().await?;
        let classic = Discovery::new(self.client.clone()).run().await?;
        let names = |d: &Discovery| {
            let mut names: Vec<_> = d
                .groups()
                .flat_map(|g| g.recommended_resources())
                .map(|(r, _)| format!("{}/{}", r.api_version, r.plural))
                .collect();
            names.sort();
            names
        };
        ensure!(names(&discovery) == names(&classic) && names(&classic).len() > 50, "{:?}", names(&classic));
        let (resource, _) =
            kube::discovery::pinned_kind(&self.client, &kube::core::GroupVersionKind::gvk("apps", "v1", "Deployment"))
                .await?;
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &self.namespace, &resource);
        api.list(&ListParams::default()).await?;
        let version = self.client.apiserver_version().await?;
        ensure!(version.major == "1" && version.minor == "37", "{version:?}");
        Ok(())
    }

    async fn controller(&self) -> Result<()> {
        let definitions: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        definitions.patch("toys.rust.example", &PatchParams::apply("rust"), &Patch::Apply(Toy::crd())).await?;
        within(20, async {
            Ok(await_condition(definitions.clone(), "toys.rust.example", conditions::is_crd_established()).await?)
        })
        .await?;
        let toys = self.api::<Toy>();
        let bad = toys
            .create(&PostParams::default(), &Toy::new("bad", ToySpec { size: 0 }))
            .await
            .expect_err("a toy of no size");
        ensure!(code(&bad) == 422 && bad.to_string().contains("should be greater than or equal to 1"), "{bad}");
        let context = Arc::new((self.client.clone(), self.namespace.clone()));
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let controller = Controller::new(toys.clone(), watcher::Config::default())
            .owns(self.api::<ConfigMap>(), watcher::Config::default())
            .graceful_shutdown_on(async move { drop(stopped.await) })
            .run(reconcile, |_, _, _| Action::requeue(Duration::from_millis(100)), context)
            .for_each(|_| async {});
        let controller = tokio::spawn(controller);
        let mut toy = Toy::new("a", ToySpec { size: 2 });
        toy.metadata.finalizers = None;
        toys.create(&PostParams::default(), &toy).await?;
        let size =
            |size: i32| move |toy: Option<&Toy>| toy.and_then(|t| t.status.as_ref()).is_some_and(|s| s.made == size);
        within(20, async { Ok(await_condition(toys.clone(), "a", size(2)).await?) }).await?;
        toys.patch_scale("a", &PatchParams::default(), &Patch::Merge(json!({"spec": {"replicas": 3}}))).await?;
        within(20, async { Ok(await_condition(toys.clone(), "a", size(3)).await?) }).await?;
        // What it owns comes back.
        self.api::<ConfigMap>().delete("toy-a", &DeleteParams::default()).await?;
        within(20, async { Ok(await_condition(self.api::<ConfigMap>(), "toy-a", conditions::is_created()).await?) })
            .await?;
        let uid = toys.get("a").await?.uid().context("no uid")?;
        toys.delete("a", &DeleteParams::default()).await?;
        within(20, async { Ok(await_condition(toys.clone(), "a", conditions::is_deleted(&uid)).await?) }).await?;
        let events: Api<k8s_openapi::api::events::v1::Event> = self.api();
        ensure!(
            events
                .list(&ListParams::default().fields("reason=Made"))
                .await?
                .items
                .iter()
                .any(|e| e.note.as_deref() == Some("a toy")),
            "no event"
        );
        drop(stop);
        within(20, async { Ok(controller.await?) }).await?;
        definitions.delete("toys.rust.example", &DeleteParams::default()).await?;
        Ok(())
    }
}

async fn reconcile(
    toy: Arc<Toy>,
    context: Arc<(Client, String)>,
) -> Result<Action, kube::runtime::finalizer::Error<kube::Error>> {
    let (client, namespace) = (context.0.clone(), &context.1);
    let toys: Api<Toy> = Api::namespaced(client.clone(), namespace);
    finalizer(&toys, "rust.example/finalizer", toy, |event| async {
        let Finalizer::Apply(toy) = event else { return Ok(Action::await_change()) };
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
        let data: serde_json::Map<_, _> = (0..toy.spec.size).map(|n| (format!("k{n}"), json!("v"))).collect();
        let name = format!("toy-{}", toy.name_any());
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": data,
            "metadata": {"name": name, "ownerReferences": [toy.controller_owner_ref(&())]}});
        maps.patch(&name, &PatchParams::apply("toys"), &Patch::Apply(map)).await?;
        let status = json!({"apiVersion": "rust.example/v1", "kind": "Toy", "status": {"made": toy.spec.size}});
        toys.patch_status(&toy.name_any(), &PatchParams::apply("toys").force(), &Patch::Apply(status)).await?;
        let event = Event {
            type_: EventType::Normal,
            reason: "Made".into(),
            note: Some("a toy".into()),
            action: "Make".into(),
            secondary: None,
        };
        Recorder::new(client.clone(), Reporter::from("toys")).publish(&event, &toy.object_ref(&())).await?;
        Ok::<_, kube::Error>(Action::await_change())
    })
    .await
}

#[tokio::main]
async fn main() -> Result<()> {
    let path = std::env::args().nth(1).context("usage: clients KUBECONFIG")?;
    let config =
        kube::Config::from_custom_kubeconfig(Kubeconfig::read_from(path)?, &KubeConfigOptions::default()).await?;
    let client = Client::try_from(config)?;
    let namespace = format!("rust-{}", std::process::id());
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let object: Namespace = serde_json::from_value(json!({"metadata": {"name": namespace}}))?;
    namespaces.create(&PostParams::default(), &object).await?;
    let t = Try { client, namespace: namespace.clone() };
    within(30, async { Ok(await_condition(t.api::<ServiceAccount>(), "default", conditions::is_created()).await?) })
        .await?;
    let (mut passed, mut failed) = (0, 0);
    macro_rules! case {
        ($name:literal, $case:expr) => {
            match within(120, $case).await {
                Ok(()) => {
                    passed += 1;
                    println!("ok   {}", $name);
                }
                Err(error) => {
                    failed += 1;
                    println!("FAIL {}\n     {error:?}", $name);
                }
            }
        };
    }
    case!("objects are made, replaced, patched and deleted", t.objects());
    case!("server-side apply with a conflict", t.apply());
    case!("pages, and lists as streams", t.pages_and_streams());
    case!("watches, one from too old a version", t.watches());
    case!("a reflector of metadata", t.reflectors());
    case!("exec with input, its end, and the status", t.sessions());
    case!("logs are followed and cut", t.logs());
    case!("port-forward", t.forward());
    case!("scale, restart, eviction, deletion in the foreground", t.subresources());
    case!("both discoveries say the same", t.discovery());
    case!("a controller with a derived definition, a finalizer, owned objects and events", t.controller());
    namespaces.delete(&namespace, &DeleteParams::default()).await?;
    println!("{passed} passed, {failed} failed");
    std::process::exit(i32::from(failed > 0));
}
