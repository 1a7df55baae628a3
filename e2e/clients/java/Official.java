import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import io.kubernetes.client.Copy;
import io.kubernetes.client.Exec;
import io.kubernetes.client.PortForward;
import io.kubernetes.client.ProtoClient;
import io.kubernetes.client.custom.IntOrString;
import io.kubernetes.client.custom.V1Patch;
import io.kubernetes.client.informer.ResourceEventHandler;
import io.kubernetes.client.informer.SharedInformerFactory;
import io.kubernetes.client.openapi.ApiClient;
import io.kubernetes.client.openapi.ApiException;
import io.kubernetes.client.openapi.apis.AppsV1Api;
import io.kubernetes.client.openapi.apis.CoreV1Api;
import io.kubernetes.client.openapi.apis.VersionApi;
import io.kubernetes.client.openapi.models.*;
import io.kubernetes.client.proto.Meta;
import io.kubernetes.client.proto.V1;
import io.kubernetes.client.util.Config;
import io.kubernetes.client.util.PatchUtils;
import io.kubernetes.client.util.Watch;
import io.kubernetes.client.util.Yaml;
import io.kubernetes.client.util.generic.GenericKubernetesApi;
import io.kubernetes.client.util.generic.dynamic.DynamicKubernetesApi;
import io.kubernetes.client.util.generic.dynamic.DynamicKubernetesObject;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Callable;
import java.util.concurrent.ConcurrentLinkedQueue;

/** Official.java KUBECONFIG: what programs on the Java client do, against real containers. Ends with 'N passed, N failed'. */
public class Official {
  static final String NS = "java-" + ProcessHandle.current().pid();
  static ApiClient client;
  static CoreV1Api v1;

  static ApiException refused(int code, Cases.Case what) throws Exception {
    try {
      what.run();
    } catch (ApiException error) {
      Cases.is(error.getCode() == code, error.getCode() + " " + error.getResponseBody());
      return error;
    }
    throw new AssertionError("it worked");
  }

  static V1ConfigMap map(String name, String... data) {
    V1ConfigMap map = new V1ConfigMap().metadata(new V1ObjectMeta().name(name).putLabelsItem("java", "1"));
    for (int n = 0; n < data.length; n += 2) map.putDataItem(data[n], data[n + 1]);
    return map;
  }

  static void pod(String name, String image, String... command) throws Exception {
    v1.createNamespacedPod(NS, new V1Pod().metadata(new V1ObjectMeta().name(name)).spec(new V1PodSpec().terminationGracePeriodSeconds(0L)
        .addContainersItem(new V1Container().name("c").image(image).command(Arrays.asList(command))))).execute();
    Cases.soon(() -> "Running".equals(v1.readNamespacedPod(name, NS).execute().getStatus().getPhase()));
  }

  static void typed() throws Exception {
    V1ConfigMap made = v1.createNamespacedConfigMap(NS, map("one", "k", "v")).execute();
    Cases.is(made.getMetadata().getUid() != null && made.getMetadata().getCreationTimestamp() != null, made);
    refused(409, () -> v1.createNamespacedConfigMap(NS, map("one")).execute());
    V1ConfigMap newer = v1.replaceNamespacedConfigMap("one", NS, made.putDataItem("k", "w")).execute();
    Cases.is(!newer.getMetadata().getResourceVersion().equals(made.getMetadata().getResourceVersion()), newer);
    String body = refused(409, () -> v1.replaceNamespacedConfigMap("one", NS, made).execute()).getResponseBody();
    Cases.is(body.contains("the object has been modified"), body);
    refused(422, () -> v1.createNamespacedConfigMap(NS, map("Not A Name")).execute());
    Cases.is("Success".equals(v1.deleteNamespacedConfigMap("one", NS).execute().getStatus()), "deletion");
    refused(404, () -> v1.readNamespacedConfigMap("one", NS).execute());
    Cases.is(new VersionApi(client).getCode().execute().getGitVersion().startsWith("v1.37"), "version");
  }

  static void pages() throws Exception {
    for (int n = 0; n < 7; n++) v1.createNamespacedConfigMap(NS, map("p" + n)).execute();
    List<String> names = new ArrayList<>();
    for (String next = ""; next != null; ) {
      V1ConfigMapList page = v1.listNamespacedConfigMap(NS).limit(3)._continue(next.isEmpty() ? null : next).labelSelector("java").execute();
      page.getItems().forEach(map -> names.add(map.getMetadata().getName()));
      next = page.getMetadata().getContinue();
    }
    Cases.is(names.equals(List.of("p0", "p1", "p2", "p3", "p4", "p5", "p6")), names);
    v1.deleteCollectionNamespacedConfigMap(NS).labelSelector("java").execute();
    Cases.is(v1.listNamespacedConfigMap(NS).labelSelector("java").execute().getItems().isEmpty(), "deleted");
  }

  static void patches() throws Exception {
    v1.createNamespacedConfigMap(NS, map("patched", "k", "v")).execute();
    Map<String, String> wanted = new LinkedHashMap<>();
    wanted.put(V1Patch.PATCH_FORMAT_JSON_PATCH, "[{\"op\":\"replace\",\"path\":\"/data/k\",\"value\":\"json\"}]");
    wanted.put(V1Patch.PATCH_FORMAT_JSON_MERGE_PATCH, "{\"data\":{\"k\":\"merge\"}}");
    wanted.put(V1Patch.PATCH_FORMAT_STRATEGIC_MERGE_PATCH, "{\"data\":{\"k\":\"strategic\"}}");
    wanted.put(V1Patch.PATCH_FORMAT_APPLY_YAML, "{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"patched\"},\"data\":{\"k\":\"apply\"}}");
    for (var patch : wanted.entrySet()) {
      V1ConfigMap after = PatchUtils.patch(V1ConfigMap.class, () -> v1.patchNamespacedConfigMap("patched", NS, new V1Patch(patch.getValue()))
          .fieldManager("java").force(patch.getKey().contains("apply") ? true : null).buildCall(null), patch.getKey(), client);
      Cases.is(patch.getValue().contains("\"" + after.getData().get("k") + "\""), patch.getKey() + " " + after.getData());
    }
    
  }

  static void watches() throws Exception {
    String from = v1.listNamespacedConfigMap(NS).execute().getMetadata().getResourceVersion();
    v1.createNamespacedConfigMap(NS, map("w")).execute();
    v1.deleteNamespacedConfigMap("w", NS).execute();
    List<String> seen = new ArrayList<>();
    try (Watch<V1ConfigMap> watch = Watch.createWatch(client, v1.listNamespacedConfigMap(NS).resourceVersion(from).watch(true).timeoutSeconds(10).buildCall(null),
        new com.google.gson.reflect.TypeToken<Watch.Response<V1ConfigMap>>() {}.getType())) {
      while (seen.size() < 2 && watch.hasNext()) {
        var event = watch.next();
        seen.add(event.type + " " + event.object.getMetadata().getName());
      }
    }
    Cases.is(seen.equals(List.of("ADDED w", "DELETED w")), seen);
  }

  static void informers() throws Exception {
    SharedInformerFactory factory = new SharedInformerFactory(client);
    var api = new GenericKubernetesApi<>(V1ConfigMap.class, V1ConfigMapList.class, "", "v1", "configmaps", client);
    var informer = factory.sharedIndexInformerFor(api, V1ConfigMap.class, 0, NS);
    var seen = new ConcurrentLinkedQueue<String>();
    informer.addEventHandler(new ResourceEventHandler<V1ConfigMap>() {
      public void onAdd(V1ConfigMap map) { seen.add("add " + map.getMetadata().getName()); }
      public void onUpdate(V1ConfigMap old, V1ConfigMap map) { seen.add("update " + map.getMetadata().getName()); }
      public void onDelete(V1ConfigMap map, boolean unknown) { seen.add("delete " + map.getMetadata().getName()); }
    });
    factory.startAllRegisteredInformers();
    Cases.soon(informer::hasSynced);
    v1.createNamespacedConfigMap(NS, map("informed")).execute();
    Cases.soon(() -> seen.contains("add informed"));
    PatchUtils.patch(V1ConfigMap.class, () -> v1.patchNamespacedConfigMap("informed", NS, new V1Patch("{\"data\":{\"a\":\"b\"}}")).buildCall(null), V1Patch.PATCH_FORMAT_JSON_MERGE_PATCH, client);
    Cases.soon(() -> seen.contains("update informed"));
    Cases.is("b".equals(informer.getIndexer().getByKey(NS + "/informed").getData().get("a")), "the cache");
    v1.deleteNamespacedConfigMap("informed", NS).execute();
    Cases.soon(() -> seen.contains("delete informed"));
    factory.stopAllRegisteredInformers();
  }

  static void protobuf() throws Exception {
    ProtoClient proto = new ProtoClient(client);
    var namespace = V1.Namespace.newBuilder().setMetadata(Meta.ObjectMeta.newBuilder().setName(NS + "-proto")).build();
    var made = proto.create(namespace, "/api/v1/namespaces", "v1", "Namespace");
    Cases.is(made.object != null && made.object.getMetadata().getName().equals(NS + "-proto"), made.status);
    var list = proto.list(V1.NamespaceList.newBuilder(), "/api/v1/namespaces");
    Cases.is(((V1.NamespaceList) list.object).getItemsList().stream().anyMatch(n -> n.getMetadata().getName().equals(NS)), "the list");
    var again = proto.create(namespace, "/api/v1/namespaces", "v1", "Namespace");
    Cases.is(again.status != null && again.status.getReason().equals("AlreadyExists"), again.status);
    proto.delete(V1.Namespace.newBuilder(), "/api/v1/namespaces/" + NS + "-proto");
  }

  static void exec() throws Exception {
    pod("box", Cases.BOX, "sleep", "600");
    Process process = new Exec(client).exec(NS, "box", new String[] {"sh", "-c", "read line; echo got $line; echo bad >&2; exit 3"}, true, false);
    InputStream output = process.getInputStream(), errors = process.getErrorStream(); // not to be had once it has ended
    process.getOutputStream().write("this\n".getBytes());
    process.getOutputStream().flush();
    Cases.is(new String(output.readAllBytes()).equals("got this\n"), "output");
    Cases.is(new String(errors.readAllBytes()).equals("bad\n"), "errors");
    Cases.is(process.waitFor() == 3, process.exitValue());
  }

  static void copy() throws Exception {
    byte[] bytes = new byte[300_000];
    new java.util.Random(1).nextBytes(bytes);
    Copy copy = new Copy(client);
    copy.copyFileToPod(NS, "box", "c", bytes, Path.of("/tmp/random"));
    try (InputStream back = copy.copyFileFromPod(NS, "box", "c", "/tmp/random")) {
      Cases.is(Arrays.equals(back.readAllBytes(), bytes), "the file is another");
    }
  }

  static void logs() throws Exception {
    pod("says", Cases.BOX, "sh", "-c", "for i in 1 2 3; do echo line $i; done; sleep 600");
    Cases.soon(() -> v1.readNamespacedPodLog("says", NS).execute().contains("line 3"));
    Cases.is(v1.readNamespacedPodLog("says", NS).tailLines(1).execute().equals("line 3\n"), "tail");
    try (InputStream stream = new io.kubernetes.client.PodLogs(client).streamNamespacedPodLog(NS, "says", "c")) {
      Cases.is(new String(stream.readNBytes(7), StandardCharsets.UTF_8).equals("line 1\n"), "follow");
    }
  }

  static void forward() throws Exception {
    pod("web", Cases.AGN, "/agnhost", "netexec", "--http-port=8080");
    Cases.soon(() -> {
      try (var result = new PortForward(client).forward(NS, "web", List.of(8080))) {
        result.getOutboundStream(8080).write("GET /hostname HTTP/1.0\r\n\r\n".getBytes());
        result.getOutboundStream(8080).flush();
        byte[] answer = new byte[4096];
        int length = 0;
        for (int n; length < answer.length && (n = result.getInputStream(8080).read(answer, length, answer.length - length)) > 0; ) {
          length += n;
          if (new String(answer, 0, length).endsWith("web")) return true;
        }
        return false;
      } catch (IllegalStateException | java.io.IOException early) { // nobody listens yet: the streams are gone at once
        return false;
      }
    });
  }

  static void deployment() throws Exception {
    AppsV1Api apps = new AppsV1Api(client);
    String text = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec:\n  replicas: 2\n  selector: {matchLabels: {app: d}}\n"
        + "  template:\n    metadata: {labels: {app: d}}\n    spec: {terminationGracePeriodSeconds: 0, containers: [{name: c, image: " + Cases.BOX + ", command: [sleep, '600'], ports: [{containerPort: 80}]}]}\n";
    V1Deployment deployment = apps.createNamespacedDeployment(NS, (V1Deployment) Yaml.load(text)).execute();
    Cases.is(new IntOrString("25%").equals(deployment.getSpec().getStrategy().getRollingUpdate().getMaxSurge()), deployment.getSpec().getStrategy());
    Cases.soon(() -> Integer.valueOf(2).equals(apps.readNamespacedDeployment("d", NS).execute().getStatus().getReadyReplicas()));
    apps.replaceNamespacedDeploymentScale("d", NS, apps.readNamespacedDeploymentScale("d", NS).execute().spec(new V1ScaleSpec().replicas(1))).execute();
    Cases.soon(() -> Integer.valueOf(1).equals(apps.readNamespacedDeployment("d", NS).execute().getStatus().getReplicas()));
    apps.deleteNamespacedDeployment("d", NS).propagationPolicy("Foreground").execute();
    Cases.soon(() -> apps.listNamespacedDeployment(NS).execute().getItems().isEmpty());
  }

  static void custom() throws Exception {
    String group = NS + ".example";
    var definitions = new DynamicKubernetesApi("apiextensions.k8s.io", "v1", "customresourcedefinitions", client);
    JsonObject definition = JsonParser.parseString("{'apiVersion':'apiextensions.k8s.io/v1','kind':'CustomResourceDefinition','metadata':{'name':'toys." + group
        + "'},'spec':{'group':'" + group + "','scope':'Namespaced','names':{'plural':'toys','kind':'Toy'},'versions':[{'name':'v1','served':true,'storage':true,'subresources':{'status':{}},"
        + "'schema':{'openAPIV3Schema':{'type':'object','properties':{'spec':{'type':'object','properties':{'size':{'type':'integer','default':3,'minimum':1}}},'status':{'type':'object','x-kubernetes-preserve-unknown-fields':true}}}}}]}}")
        .getAsJsonObject();
    definitions.create(new DynamicKubernetesObject(definition)).throwsApiException();
    Cases.soon(() -> definitions.get("toys." + group).getObject().getRaw().toString().contains("\"Established\""));
    var toys = new DynamicKubernetesApi(group, "v1", "toys", client);
    var toy = new DynamicKubernetesObject(JsonParser.parseString("{'apiVersion':'" + group + "/v1','kind':'Toy','metadata':{'name':'a','namespace':'" + NS + "'},'spec':{}}").getAsJsonObject());
    var made = Cases.soon(() -> {
      var answer = toys.create(toy);
      return answer.isSuccess() ? answer.getObject() : null;
    });
    Cases.is(made.getRaw().getAsJsonObject("spec").get("size").getAsInt() == 3, made.getRaw());
    var after = toys.updateStatus(made, object -> JsonParser.parseString("{'x':2}"));
    Cases.is(after.isSuccess() && after.getObject().getRaw().getAsJsonObject("status").get("x").getAsInt() == 2, after.getStatus());
    var bad = toys.patch(NS, "a", V1Patch.PATCH_FORMAT_JSON_MERGE_PATCH, new V1Patch("{\"spec\":{\"size\":0}}"));
    Cases.is(bad.getHttpStatusCode() == 422 && bad.getStatus().getDetails().getCauses().get(0).getField().equals("spec.size"), bad.getStatus());
    Cases.is(toys.list(NS).getObject().getItems().size() == 1, "the list");
    definitions.delete("toys." + group).throwsApiException();
  }

  public static void main(String[] arguments) throws Exception {
    System.setProperty("com.google.protobuf.use_unsafe_pre22_gencode", "true"); // as this client is generated
    client = Config.fromConfig(arguments[0]);
    client.setReadTimeout(0);
    io.kubernetes.client.openapi.Configuration.setDefaultApiClient(client);
    v1 = new CoreV1Api(client);
    v1.createNamespace(new V1Namespace().metadata(new V1ObjectMeta().name(NS))).execute();
    Cases.soon(() -> !v1.listNamespacedServiceAccount(NS).execute().getItems().isEmpty());
    Map<String, Cases.Case> cases = new LinkedHashMap<>();
    cases.put("the typed client creates, reads, updates and deletes", Official::typed);
    cases.put("a list comes in pages", Official::pages);
    cases.put("every type of patch", Official::patches);
    cases.put("a watch goes on where it was", Official::watches);
    cases.put("an informer follows", Official::informers);
    cases.put("protobuf", Official::protobuf);
    cases.put("exec gives output, errors and the exit code", Official::exec);
    cases.put("files are copied there and back", Official::copy);
    cases.put("logs are read, cut and followed", Official::logs);
    cases.put("port-forward", Official::forward);
    cases.put("a Deployment from YAML is scaled and deleted in the foreground", Official::deployment);
    cases.put("a custom resource by the dynamic client", Official::custom);
    int failed = Cases.run(cases);
    v1.deleteNamespace(NS).execute();
    System.exit(failed > 0 ? 1 : 0);
  }
}
