"""python.py KUBECONFIG: what programs on the Python client do, against real containers. Ends with 'N passed, N failed'."""

import json
import os
import re
import sys
import threading
import time
import traceback

import yaml
from kubernetes import client, config, dynamic, utils, watch
from kubernetes.client.rest import ApiException
from kubernetes.leaderelection import electionconfig, leaderelection
from kubernetes.leaderelection.resourcelock.configmaplock import ConfigMapLock
from kubernetes.stream import portforward, stream

BOX = "registry.k8s.io/e2e-test-images/busybox:1.37.0-1"
AGN = "registry.k8s.io/e2e-test-images/agnhost:2.63.0"
NS = f"python-{os.getpid()}"
CASES = []


def case(function):
    CASES.append(function)
    return function


def soon(what, seconds=60):
    """Waits until what() is true and returns it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = what()
        if value:
            return value
        time.sleep(0.1)
    raise AssertionError("not within %d s" % seconds)


def refused(code, call, *args, **kw):
    try:
        call(*args, **kw)
    except (ApiException, dynamic.exceptions.DynamicApiError) as error:
        assert error.status == code, (error.status, error.body)
        return error
    raise AssertionError("it worked")


def pod(name, command, image=BOX, labels=None):
    container = client.V1Container(name="c", image=image, command=command)
    spec = client.V1PodSpec(containers=[container], termination_grace_period_seconds=0)
    return client.V1Pod(metadata=client.V1ObjectMeta(name=name, labels=labels), spec=spec)


def running(name):
    soon(lambda: v1.read_namespaced_pod(name, NS).status.phase == "Running")


@case
def the_typed_client_creates_reads_updates_patches_and_deletes():
    body = client.V1ConfigMap(metadata=client.V1ObjectMeta(name="one", labels={"a": "b"}), data={"k": "v"})
    made = v1.create_namespaced_config_map(NS, body)
    assert made.metadata.uid and made.metadata.creation_timestamp.tzinfo
    refused(409, v1.create_namespaced_config_map, NS, body)
    made.data["k"] = "w"
    newer = v1.replace_namespaced_config_map("one", NS, made)
    refused(409, v1.replace_namespaced_config_map, "one", NS, made)
    assert newer.metadata.resource_version != made.metadata.resource_version
    assert v1.patch_namespaced_config_map("one", NS, {"data": {"x": "y"}}).data == {"k": "w", "x": "y"}
    assert v1.patch_namespaced_config_map("one", NS, [{"op": "remove", "path": "/data/x"}]).data == {"k": "w"}
    assert [m.metadata.name for m in v1.list_namespaced_config_map(NS, label_selector="a in (b)").items] == ["one"]
    assert [m.metadata.name for m in v1.list_namespaced_config_map(NS, field_selector="metadata.name=one").items] == ["one"]
    made, code, headers = v1.read_namespaced_config_map_with_http_info("one", NS)
    assert code == 200 and headers["Content-Type"] == "application/json"
    gone = v1.delete_namespaced_config_map("one", NS)
    assert (gone if isinstance(gone, dict) else gone.to_dict())["status"] == "Success"
    refused(404, v1.read_namespaced_config_map, "one", NS)


@case
def a_list_comes_in_pages():
    for i in range(7):
        v1.create_namespaced_config_map(NS, client.V1ConfigMap(metadata=client.V1ObjectMeta(name=f"p{i}", labels={"page": "1"})))
    names, token = [], None
    while True:
        page = v1.list_namespaced_config_map(NS, limit=3, _continue=token, label_selector="page")
        names += [m.metadata.name for m in page.items]
        token = page.metadata._continue
        if not token:
            break
        assert page.metadata.remaining_item_count is None  # never told with a selector
    assert names == [f"p{i}" for i in range(7)]
    v1.delete_collection_namespaced_config_map(NS, label_selector="page")
    assert not v1.list_namespaced_config_map(NS, label_selector="page").items


@case
def a_watch_goes_on_where_it_was():
    first = v1.list_namespaced_config_map(NS).metadata.resource_version
    for name in ("w1", "w2"):
        v1.create_namespaced_config_map(NS, client.V1ConfigMap(metadata=client.V1ObjectMeta(name=name)))
    watcher, seen = watch.Watch(), []
    for event in watcher.stream(v1.list_namespaced_config_map, NS, resource_version=first, timeout_seconds=20):
        seen.append((event["type"], event["object"].metadata.name))
        if len(seen) == 2:
            watcher.stop()
    assert seen == [("ADDED", "w1"), ("ADDED", "w2")], seen
    v1.delete_namespaced_config_map("w1", NS)
    event = next(iter(watch.Watch().stream(v1.list_namespaced_config_map, NS, resource_version=watcher.resource_version, timeout_seconds=20)))
    assert (event["type"], event["object"].metadata.name) == ("DELETED", "w1")
    begin = time.monotonic()
    assert not list(watch.Watch().stream(v1.list_namespaced_config_map, NS, resource_version=event["object"].metadata.resource_version, timeout_seconds=1))
    assert time.monotonic() - begin < 5


@case
def a_watch_from_too_old_a_version_is_told_so():
    error = refused(410, lambda: list(watch.Watch().stream(v1.list_namespaced_config_map, NS, resource_version="1", timeout_seconds=5)))
    assert "too old resource version" in str(error) or "Expired" in str(error), error


@case
def bookmarks_and_the_first_events_come_as_asked():
    kinds = []
    for event in watch.Watch().stream(v1.list_namespaced_config_map, NS, send_initial_events=True,
                                      resource_version_match="NotOlderThan", allow_watch_bookmarks=True, timeout_seconds=20):
        kinds.append(event["type"])
        if event["type"] == "BOOKMARK":
            assert event["raw_object"]["metadata"]["annotations"]["k8s.io/initial-events-end"] == "true"
            break
    assert kinds[-1] == "BOOKMARK" and set(kinds[:-1]) == {"ADDED"}, kinds


@case
def exec_gives_output_errors_and_exit_codes():
    v1.create_namespaced_pod(NS, pod("box", ["sleep", "600"]))
    running("box")
    out = stream(v1.connect_get_namespaced_pod_exec, "box", NS, command=["sh", "-c", "echo hi; echo no >&2"], stderr=True, stdin=False, stdout=True, tty=False)
    assert "hi\n" in out and "no\n" in out, out
    session = stream(v1.connect_get_namespaced_pod_exec, "box", NS, command=["sh"], stderr=True, stdin=True, stdout=True, tty=False, _preload_content=False)
    session.write_stdin("echo $((6*7)); echo bad >&2; exit 3\n")
    session.run_forever(timeout=20)
    assert session.read_stdout() == "42\n" and session.read_stderr() == "bad\n", "output"
    assert session.returncode == 3, session.returncode
    session = stream(v1.connect_get_namespaced_pod_exec, "box", NS, command=["cat"], stderr=True, stdin=True, stdout=True, tty=False, _preload_content=False, binary=True)
    sent = bytes(range(256)) * 400
    session.write_stdin(sent)
    got = b""
    end = time.monotonic() + 20
    while len(got) < len(sent) and time.monotonic() < end:
        session.update(timeout=1)
        got += session.read_stdout() if session.peek_stdout() else b""
    assert got == sent, (len(got), len(sent))
    session.close()
    out = stream(v1.connect_get_namespaced_pod_exec, "box", NS, command=["stty", "size"], stderr=True, stdin=False, stdout=True, tty=True)
    refused(0, stream, v1.connect_get_namespaced_pod_exec, "nope", NS, command=["x"], stdout=True)


@case
def attach_reads_what_a_pod_says():
    v1.create_namespaced_pod(NS, pod("talks", ["sh", "-c", "while sleep 0.2; do echo tick; done"]))
    running("talks")
    session = stream(v1.connect_get_namespaced_pod_attach, "talks", NS, stderr=True, stdin=False, stdout=True, tty=False, _preload_content=False)
    soon(lambda: session.update(timeout=1) or "tick" in session.read_stdout(), 10)
    session.close()


@case
def port_forward_is_a_socket():
    v1.create_namespaced_pod(NS, pod("web", ["/agnhost", "netexec", "--http-port=8080"], AGN, {"app": "web"}))
    running("web")
    def listens():
        try:
            return v1.connect_get_namespaced_pod_proxy_with_path("web:8080", NS, "hostname")
        except ApiException as error:
            assert error.status == 503, error
    soon(listens, 20)
    def ask():
        forward = portforward(v1.connect_get_namespaced_pod_portforward, "web", NS, ports="8080,8099")
        sock = forward.socket(8080)
        sock.settimeout(10)
        sock.sendall(b"GET /hostname HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        text = b""
        while True:
            part = sock.recv(4096)
            if not part:
                break
            text += part
        assert forward.error(8080) is None or "refused" in forward.error(8080), forward.error(8080)
        return text.endswith(b"web") and text
    soon(ask, 20)
    forward = portforward(v1.connect_get_namespaced_pod_portforward, "web", NS, ports="8099")
    sock = forward.socket(8099)
    try:
        sock.sendall(b"x")
    except BrokenPipeError:
        pass  # refused before anything was sent
    soon(lambda: forward.error(8099), 10)
    assert "8099" in forward.error(8099), forward.error(8099)


@case
def logs_are_read_followed_and_cut():
    v1.create_namespaced_pod(NS, pod("says", ["sh", "-c", "for i in 1 2 3 4; do echo line $i; sleep 0.2; done"]))
    soon(lambda: v1.read_namespaced_pod("says", NS).status.phase in ("Running", "Succeeded"))
    lines = list(watch.Watch().stream(v1.read_namespaced_pod_log, "says", NS))
    assert lines[:4] == [f"line {i}" for i in (1, 2, 3, 4)], lines
    assert v1.read_namespaced_pod_log("says", NS, tail_lines=1) == "line 4\n"
    assert v1.read_namespaced_pod_log("says", NS, limit_bytes=4) == "line"
    assert v1.read_namespaced_pod_log("says", NS, timestamps=True).startswith("20")


@case
def the_proxy_reaches_pods_and_services():
    assert v1.connect_get_namespaced_pod_proxy_with_path("web:8080", NS, "hostname") == "web"
    port = client.V1ServicePort(port=80, target_port=8080)
    v1.create_namespaced_service(NS, client.V1Service(metadata=client.V1ObjectMeta(name="web"), spec=client.V1ServiceSpec(selector={"app": "web"}, ports=[port])))
    def ask():
        try:
            return v1.connect_get_namespaced_service_proxy_with_path("web:80", NS, "hostname") == "web"
        except ApiException as error:
            assert error.status == 503, error
    soon(ask, 20)


@case
def the_dynamic_client_finds_kinds_and_works_with_them():
    found = dynamic.DynamicClient(api, cache_file=None)
    deployments = found.resources.get(api_version="apps/v1", kind="Deployment")
    assert deployments.name == "deployments" and "deploy" in deployments.short_names
    body = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "dyn"}, "spec": {
        "replicas": 1, "selector": {"matchLabels": {"app": "dyn"}},
        "template": {"metadata": {"labels": {"app": "dyn"}}, "spec": {"containers": [{"name": "c", "image": BOX, "command": ["sleep", "600"]}]}}}}
    deployments.create(body=body, namespace=NS)
    soon(lambda: deployments.get(name="dyn", namespace=NS).status.readyReplicas == 1)
    deployments.patch(body={"spec": {"replicas": 0}}, name="dyn", namespace=NS, content_type="application/merge-patch+json")
    deployments.scale.get(name="dyn", namespace=NS)
    deployments.scale.patch(body={"spec": {"replicas": 2}}, name="dyn", namespace=NS, content_type="application/merge-patch+json")
    assert deployments.get(name="dyn", namespace=NS).spec.replicas == 2
    for event in deployments.watch(namespace=NS, timeout=5):
        assert event["object"].kind == "Deployment"
        break
    deployments.delete(name="dyn", namespace=NS, body={"propagationPolicy": "Foreground"})
    soon(lambda: not deployments.get(namespace=NS).items)
    assert found.version["kubernetes"]["gitVersion"].startswith("v1.37")


@case
def server_side_apply_owns_and_conflicts():
    maps = dynamic.DynamicClient(api).resources.get(api_version="v1", kind="ConfigMap")
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ssa"}, "data": {"a": "1"}}
    maps.server_side_apply(body=body, name="ssa", namespace=NS, field_manager="one")
    body["data"]["a"] = "2"
    error = refused(409, maps.server_side_apply, body=body, name="ssa", namespace=NS, field_manager="two")
    assert 'conflict with \\"one\\"' in str(error.body), error.body
    maps.server_side_apply(body=body, name="ssa", namespace=NS, field_manager="two", force_conflicts=True)
    managers = {entry.manager: entry.operation for entry in maps.get(name="ssa", namespace=NS).metadata.managedFields}
    assert managers == {"two": "Apply"}, managers


@case
def a_custom_resource_is_served_at_once():
    schema = {"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "size": {"type": "integer", "default": 3, "minimum": 1}}}, "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}}
    group = f"{NS}.example"
    extensions = client.ApiextensionsV1Api(api)
    utils.create_from_yaml(api, yaml_objects=[{
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": f"toys.{group}"},
        "spec": {"group": group, "scope": "Namespaced", "names": {"plural": "toys", "kind": "Toy"}, "versions": [{
            "name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}, "subresources": {"status": {}}}]}}])
    soon(lambda: any(c.type == "Established" and c.status == "True" for c in extensions.read_custom_resource_definition(f"toys.{group}").status.conditions or []))
    custom = client.CustomObjectsApi(api)
    where = (group, "v1", NS, "toys")
    toy = {"apiVersion": f"{group}/v1", "kind": "Toy", "metadata": {"name": "a"}, "spec": {}, "status": {"x": 1}}
    made = custom.create_namespaced_custom_object(*where, toy)
    assert made["spec"] == {"size": 3} and "status" not in made
    assert custom.patch_namespaced_custom_object_status(*where, "a", {"status": {"x": 2}})["status"] == {"x": 2}
    error = refused(422, custom.patch_namespaced_custom_object, *where, "a", {"spec": {"size": 0}})
    assert "should be greater than or equal to 1" in error.body
    event = next(iter(watch.Watch().stream(custom.list_namespaced_custom_object, *where, timeout_seconds=10)))
    assert event["object"]["metadata"]["name"] == "a"
    found = dynamic.DynamicClient(api).resources.get(api_version=f"{group}/v1", kind="Toy")
    assert found.get(namespace=NS).items[0].spec.size == 3
    custom.delete_namespaced_custom_object(*where, "a")
    extensions.delete_custom_resource_definition(f"toys.{group}")


@case
def open_api_names_every_model_that_the_client_has():
    def read(path):
        answer = api.call_api("GET", api.configuration.host + path)
        return json.loads(answer.read())
    document = read("/openapi/v2")
    # The last two parts of a definition's name make the model's; the generator puts the group in front where several have the kind.
    names = {"".join(part[0].upper() + part[1:] for part in name.split(".")[-2:]) for name in document["definitions"]}
    models = {name for name in dir(client.models) if re.match("V1[A-Z]", name) and hasattr(getattr(client.models, name), "openapi_types")}
    # Those of aggregated discovery the client has from elsewhere: no server publishes them.
    models.discard("V1GroupVersionKind")
    missing = {m for m in models if m not in names and not any(m.endswith(n[2:]) for n in names)}
    assert not missing, sorted(missing)
    url = read("/openapi/v3")["paths"]["apis/apps/v1"]["serverRelativeURL"]
    assert "io.k8s.api.apps.v1.Deployment" in read(url)["components"]["schemas"]


@case
def every_api_of_the_client_can_list():
    """Each list method without a namespace, through the typed models: what is answered must decode."""
    failed = []
    for name in sorted(dir(client)):
        if not name.endswith("Api"):
            continue
        instance = getattr(client, name)(api)
        for method in sorted(dir(instance)):
            if method.startswith(("list_", "get_api_", "get_code")) and not method.endswith("http_info") and "namespaced_" not in method and "custom_object" not in method and name != "CustomObjectsApi":
                try:
                    getattr(instance, method)()
                except ApiException as error:
                    # Versions that v1.37 has and does not serve by default.
                    if error.status != 404:
                        failed.append((name, method, error.status, error.body))
                except Exception as error:  # pylint: disable=broad-except
                    # This model wants a time that only events of this group have, on every server.
                    if method == "list_event_for_all_namespaces" and "eventTime" in str(error):
                        continue
                    failed.append((name, method, repr(error)))
    assert not failed, failed


@case
def many_objects_are_made_from_yaml():
    text = f"""
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Service
  metadata: {{name: y1, namespace: {NS}}}
  spec: {{ports: [{{port: 80}}]}}
- apiVersion: networking.k8s.io/v1
  kind: Ingress
  metadata: {{name: y2, namespace: {NS}}}
  spec: {{defaultBackend: {{service: {{name: y1, port: {{number: 80}}}}}}}}
---
apiVersion: batch/v1
kind: CronJob
metadata: {{name: y3, namespace: {NS}}}
spec:
  schedule: "0 0 1 1 *"
  jobTemplate: {{spec: {{template: {{spec: {{restartPolicy: Never, containers: [{{name: c, image: {BOX}}}]}}}}}}}}
"""
    made = utils.create_from_yaml(api, yaml_objects=list(yaml.safe_load_all(text)))
    assert len(made) >= 2
    assert client.BatchV1Api(api).read_namespaced_cron_job("y3", NS).spec.schedule == "0 0 1 1 *"


@case
def access_is_reviewed_and_tokens_are_given():
    review = client.V1SelfSubjectAccessReview(spec=client.V1SelfSubjectAccessReviewSpec(resource_attributes=client.V1ResourceAttributes(verb="create", resource="pods")))
    assert client.AuthorizationV1Api(api).create_self_subject_access_review(review).status.allowed
    token = v1.create_namespaced_service_account_token("default", NS, client.AuthenticationV1TokenRequest(spec=client.V1TokenRequestSpec(audiences=[])))
    other = client.Configuration.get_default_copy()
    other.cert_file = other.key_file = None
    other.api_key = {"authorization": f"Bearer {token.status.token}"}
    as_account = client.ApiClient(other)
    who = client.AuthenticationV1Api(as_account).create_self_subject_review(client.V1SelfSubjectReview())
    assert who.status.user_info.username == f"system:serviceaccount:{NS}:default", who
    refused(403, client.CoreV1Api(as_account).list_namespaced_secret, NS)


@case
def one_of_two_candidates_leads_and_the_other_takes_over():
    led = []
    def candidate(name, until):
        def started():
            led.append(name)
        # This library's elector ends only with its process or when it cannot renew: each runs in a thread of its own.
        lock = ConfigMapLock("lead", NS, name)
        if until:
            update = lock.update
            lock.update = lambda *a: False if time.monotonic() > until else update(*a)
        leaderelection.LeaderElection(electionconfig.Config(lock, lease_duration=3, renew_deadline=2.5, retry_period=1.1, onstarted_leading=started, onstopped_leading=lambda: None)).run()
    threading.Thread(target=candidate, args=("one", time.monotonic() + 5), daemon=True).start()
    soon(lambda: led == ["one"], 10)
    threading.Thread(target=candidate, args=("two", None), daemon=True).start()
    soon(lambda: led == ["one", "two"], 20)


if __name__ == "__main__":
    config.load_kube_config(sys.argv[1])
    api = client.ApiClient()
    v1 = client.CoreV1Api(api)
    v1.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=NS)))
    soon(lambda: v1.list_namespaced_service_account(NS).items)
    passed = failed = 0
    for run in CASES:
        try:
            run()
            passed += 1
            print("ok  ", run.__name__.replace("_", " "), flush=True)
        except Exception:  # pylint: disable=broad-except
            failed += 1
            print("FAIL", run.__name__.replace("_", " "), flush=True)
            print("     " + traceback.format_exc().replace("\n", "\n     "))
    v1.delete_namespace(NS)
    print(f"{passed} passed, {failed} failed", flush=True)
    os._exit(1 if failed else 0)
