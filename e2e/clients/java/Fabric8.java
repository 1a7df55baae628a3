import io.fabric8.kubernetes.api.model.*;
import io.fabric8.kubernetes.api.model.apiextensions.v1.*;
import io.fabric8.kubernetes.api.model.apps.Deployment;
import io.fabric8.kubernetes.api.model.apps.DeploymentBuilder;
import io.fabric8.kubernetes.api.model.coordination.v1.Lease;
import io.fabric8.kubernetes.client.Config;
import io.fabric8.kubernetes.client.*;
import io.fabric8.kubernetes.client.dsl.ExecWatch;
import io.fabric8.kubernetes.client.dsl.base.PatchContext;
import io.fabric8.kubernetes.client.dsl.base.PatchType;
import io.fabric8.kubernetes.client.dsl.base.ResourceDefinitionContext;
import io.fabric8.kubernetes.client.extended.leaderelection.LeaderCallbacks;
import io.fabric8.kubernetes.client.extended.leaderelection.LeaderElectionConfigBuilder;
import io.fabric8.kubernetes.client.extended.leaderelection.resourcelock.LeaseLock;
import io.fabric8.kubernetes.client.informers.ResourceEventHandler;
import java.io.ByteArrayOutputStream;
import java.io.File;
import java.net.URI;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.*;

/** Fabric8.java KUBECONFIG: what programs on the Fabric8 client do, against real containers. Ends with 'N passed, N failed'. */
public class Fabric8 {
  static final String NS = "fabric8-" + ProcessHandle.current().pid();
  static KubernetesClient client;

  static KubernetesClientException refused(int code, Cases.Case what) throws Exception {
    try {
      what.run();
    } catch (KubernetesClientException error) {
      Cases.is(error.getCode() == code, error);
      return error;
    }
    throw new AssertionError("it worked");
  }

  static ConfigMap map(String name) {
    return new ConfigMapBuilder().withNewMetadata().withName(name).withNamespace(NS).addToLabels("f", "8").endMetadata().addToData("k", "v").build();
  }

  static Pod pod(String name, String image, String... command) {
    client.resource(new PodBuilder().withNewMetadata().withName(name).withNamespace(NS).endMetadata().withNewSpec().withTerminationGracePeriodSeconds(0L)
        .addNewContainer().withName("c").withImage(image).withCommand(command).endContainer().endSpec().build()).create();
    return client.pods().inNamespace(NS).withName(name).waitUntilReady(60, TimeUnit.SECONDS);
  }

  static void objects() throws Exception {
    var maps = client.configMaps().inNamespace(NS);
    ConfigMap made = client.resource(map("one")).create();
    refused(409, () -> client.resource(map("one")).create());
    Cases.is(maps.withName("one").edit(m -> new ConfigMapBuilder(m).addToData("x", "y").build()).getData().size() == 2, "edit");
    refused(409, () -> client.resource(new ConfigMapBuilder(made).addToData("late", "1").build()).update());
    Cases.is(maps.withName("one").patch(PatchContext.of(PatchType.JSON_MERGE), "{\"data\":{\"x\":null}}").getData().equals(Map.of("k", "v")), "merge patch");
    Cases.is(maps.withName("one").patch(PatchContext.of(PatchType.JSON), "[{\"op\":\"test\",\"path\":\"/data/k\",\"value\":\"v\"},{\"op\":\"add\",\"path\":\"/data/j\",\"value\":\"1\"}]").getData().containsKey("j"), "JSON patch");
    Cases.is(maps.withLabel("f", "8").list(new ListOptionsBuilder().withLimit(1L).build()).getItems().size() == 1, "a page");
    Cases.is(maps.withField("metadata.name", "one").list().getItems().size() == 1, "a field selector");
    Cases.is(!maps.withName("one").delete().isEmpty() && maps.withName("one").get() == null, "deletion");
    Cases.is(maps.withName("none").delete().isEmpty(), "deletion of nothing");
  }

  static void apply() throws Exception {
    client.resource(map("ssa")).fieldManager("one").serverSideApply();
    ConfigMap other = new ConfigMapBuilder(map("ssa")).addToData("k", "w").build();
    Cases.is(refused(409, () -> client.resource(other).fieldManager("two").serverSideApply()).getStatus().getDetails().getCauses().get(0).getField().equals(".data.k"), "the conflict");
    Cases.is(client.resource(other).fieldManager("two").forceConflicts().serverSideApply().getData().get("k").equals("w"), "force");
  }

  static void informer() throws Exception {
    var seen = new ConcurrentLinkedQueue<String>();
    try (var informer = client.configMaps().inNamespace(NS).withLabel("f", "8").inform(new ResourceEventHandler<ConfigMap>() {
      public void onAdd(ConfigMap m) { seen.add("add " + m.getMetadata().getName()); }
      public void onUpdate(ConfigMap old, ConfigMap m) { seen.add("update " + m.getMetadata().getName()); }
      public void onDelete(ConfigMap m, boolean unknown) { seen.add("delete " + m.getMetadata().getName()); }
    })) {
      client.resource(map("informed")).create();
      Cases.soon(() -> seen.contains("add informed"));
      client.configMaps().inNamespace(NS).withName("informed").edit(m -> new ConfigMapBuilder(m).addToData("x", "y").build());
      Cases.soon(() -> seen.contains("update informed") && "y".equals(informer.getStore().getByKey(NS + "/informed").getData().get("x")));
      // Out of the selector is out of the informer.
      client.configMaps().inNamespace(NS).withName("informed").edit(m -> new ConfigMapBuilder(m).editMetadata().removeFromLabels("f").endMetadata().build());
      Cases.soon(() -> seen.contains("delete informed"));
    }
  }

  static void watch() throws Exception {
    var seen = new ConcurrentLinkedQueue<String>();
    var options = new ListOptionsBuilder().withAllowWatchBookmarks(true).withResourceVersion("1").build();
    var closed = new CompletableFuture<WatcherException>();
    try (var none = client.configMaps().inNamespace(NS).watch(options, new Watcher<ConfigMap>() {
      public void eventReceived(Action action, ConfigMap m) { seen.add(action + ""); }
      public void onClose(WatcherException cause) { closed.complete(cause); }
    })) {
      Cases.is(closed.get(20, TimeUnit.SECONDS).isHttpGone(), "too old");
    } catch (KubernetesClientException error) {
      Cases.is(error.getCode() == 410, error);
    }
    try (var none = client.configMaps().inNamespace(NS).watch(new Watcher<ConfigMap>() {
      public void eventReceived(Action action, ConfigMap m) { seen.add(action + " " + m.getMetadata().getName()); }
      public void onClose(WatcherException cause) {}
    })) {
      client.resource(map("watched")).create();
      Cases.soon(() -> seen.contains("ADDED watched"));
    }
  }

  static void exec() throws Exception {
    pod("box", Cases.BOX, "sleep", "600");
    var out = new ByteArrayOutputStream();
    var errors = new ByteArrayOutputStream();
    try (ExecWatch run = client.pods().inNamespace(NS).withName("box").redirectingInput().writingOutput(out).writingError(errors).exec("sh", "-c", "read a; echo got $a; echo bad >&2; exit 3")) {
      run.getInput().write("this\n".getBytes());
      run.getInput().flush();
      Cases.is(run.exitCode().get(20, TimeUnit.SECONDS) == 3, "exit code");
    }
    Cases.is(out.toString().equals("got this\n") && errors.toString().equals("bad\n"), out + "/" + errors);
    Path there = Files.createTempFile("f", "8"), back = Files.createTempFile("f", "8");
    byte[] bytes = new byte[300_000];
    new java.util.Random(2).nextBytes(bytes);
    Files.write(there, bytes);
    var box = client.pods().inNamespace(NS).withName("box");
    Cases.is(box.file("/tmp/file").upload(there), "upload");
    Cases.is(box.file("/tmp/file").copy(back) && java.util.Arrays.equals(Files.readAllBytes(back), bytes), "download");
    Files.delete(there);
    Files.delete(back);
  }

  static void logs() throws Exception {
    pod("says", Cases.BOX, "sh", "-c", "for i in 1 2 3; do echo line $i; done; sleep 600");
    var says = client.pods().inNamespace(NS).withName("says");
    Cases.soon(() -> says.getLog().contains("line 3"));
    Cases.is(says.tailingLines(1).getLog().equals("line 3\n"), "tail");
    try (var follow = says.watchLog()) {
      Cases.is(new String(follow.getOutput().readNBytes(7)).equals("line 1\n"), "follow");
    }
  }

  static void forward() throws Exception {
    pod("web", Cases.AGN, "/agnhost", "netexec", "--http-port=8080");
    Cases.soon(() -> {
      try (LocalPortForward forward = client.pods().inNamespace(NS).withName("web").portForward(8080)) {
        try (var stream = URI.create("http://localhost:" + forward.getLocalPort() + "/hostname").toURL().openStream()) {
          return new String(stream.readAllBytes()).equals("web");
        } catch (java.io.IOException early) {
          return false;
        }
      }
    });
  }

  static void deployment() throws Exception {
    Deployment d = new DeploymentBuilder().withNewMetadata().withName("d").withNamespace(NS).endMetadata().withNewSpec().withReplicas(2).withNewSelector().addToMatchLabels("app", "d").endSelector()
        .withNewTemplate().withNewMetadata().addToLabels("app", "d").endMetadata().withNewSpec().withTerminationGracePeriodSeconds(0L)
        .addNewContainer().withName("c").withImage(Cases.BOX).withCommand("sleep", "600").endContainer().endSpec().endTemplate().endSpec().build();
    client.resource(d).create();
    var found = client.apps().deployments().inNamespace(NS).withName("d");
    found.waitUntilReady(60, TimeUnit.SECONDS);
    Cases.is(found.scale(1).getSpec().getReplicas() == 1, "scale");
    found.rolling().restart();
    Cases.soon(() -> client.apps().replicaSets().inNamespace(NS).withLabel("app", "d").list().getItems().size() == 2);
    found.waitUntilCondition(x -> x.getStatus().getUpdatedReplicas() != null && x.getStatus().getUpdatedReplicas() == 1 && x.getStatus().getReplicas() == 1, 60, TimeUnit.SECONDS);
    found.withPropagationPolicy(DeletionPropagation.FOREGROUND).delete();
    found.waitUntilCondition(x -> x == null, 60, TimeUnit.SECONDS);
  }

  static void custom() throws Exception {
    String group = NS + ".example";
    var properties = new JSONSchemaPropsBuilder().withType("object").addToProperties("spec", new JSONSchemaPropsBuilder().withType("object")
        .addToProperties("size", new JSONSchemaPropsBuilder().withType("integer").withDefault(new com.fasterxml.jackson.databind.node.IntNode(3)).withMinimum(1.0).build()).build()).build();
    var definition = new CustomResourceDefinitionBuilder().withNewMetadata().withName("toys." + group).endMetadata().withNewSpec().withGroup(group).withScope("Namespaced")
        .withNewNames().withPlural("toys").withKind("Toy").endNames().addNewVersion().withName("v1").withServed(true).withStorage(true)
        .withNewSchema().withOpenAPIV3Schema(properties).endSchema().endVersion().endSpec().build();
    client.resource(definition).create();
    client.resource(definition).waitUntilCondition(c -> c != null && c.getStatus() != null && c.getStatus().getConditions().stream().anyMatch(x -> x.getType().equals("Established") && x.getStatus().equals("True")), 20, TimeUnit.SECONDS);
    var toys = client.genericKubernetesResources(new ResourceDefinitionContext.Builder().withGroup(group).withVersion("v1").withKind("Toy").withPlural("toys").withNamespaced(true).build()).inNamespace(NS);
    var toy = toys.resource(Serialization("{\"apiVersion\":\"" + group + "/v1\",\"kind\":\"Toy\",\"metadata\":{\"name\":\"a\",\"namespace\":\"" + NS + "\"},\"spec\":{}}")).create();
    Cases.is(Integer.valueOf(3).equals(toy.get("spec", "size")), toy);
    String message = refused(422, () -> toys.withName("a").patch(PatchContext.of(PatchType.JSON_MERGE), "{\"spec\":{\"size\":0}}")).getMessage();
    Cases.is(message.contains("should be greater than or equal to 1"), message);
    toys.withName("a").delete();
    client.resource(definition).delete();
  }

  static GenericKubernetesResource Serialization(String json) {
    return client.getKubernetesSerialization().unmarshal(json, GenericKubernetesResource.class);
  }

  static void yaml() throws Exception {
    String text = "apiVersion: v1\nkind: Service\nmetadata: {name: y1}\nspec: {ports: [{port: 80}]}\n---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: y2}\n"
        + "spec: {defaultBackend: {service: {name: y1, port: {number: 80}}}}\n---\napiVersion: batch/v1\nkind: Job\nmetadata: {name: y3}\nspec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: " + Cases.BOX + ", command: ['true']}]}}}\n";
    var items = client.load(new java.io.ByteArrayInputStream(text.getBytes())).inNamespace(NS);
    Cases.is(items.create().size() == 3, "three objects");
    client.batch().v1().jobs().inNamespace(NS).withName("y3").waitUntilCondition(j -> j.getStatus().getSucceeded() != null && j.getStatus().getSucceeded() == 1, 60, TimeUnit.SECONDS);
    items.delete();
    Cases.is(client.services().inNamespace(NS).withName("y1").get() == null, "deleted");
  }

  static void leader() throws Exception {
    var led = new ConcurrentLinkedQueue<String>();
    var running = new LinkedHashMap<String, CompletableFuture<?>>();
    for (String name : List.of("a", "b")) {
      running.put(name, client.leaderElector().withConfig(new LeaderElectionConfigBuilder().withName(name).withLeaseDuration(Duration.ofSeconds(3)).withRenewDeadline(Duration.ofSeconds(2))
          .withRetryPeriod(Duration.ofMillis(300)).withReleaseOnCancel().withLock(new LeaseLock(NS, "lead", name))
          .withLeaderCallbacks(new LeaderCallbacks(() -> led.add(name), () -> {}, who -> {})).build()).build().start());
      if (name.equals("a")) Cases.soon(() -> led.size() == 1);
    }
    running.get("a").cancel(true);
    Cases.soon(() -> led.size() == 2);
    running.get("b").cancel(true);
    Lease lease = client.leases().inNamespace(NS).withName("lead").get();
    Cases.is(lease.getSpec().getLeaseTransitions() >= 1, lease);
  }

  public static void main(String[] arguments) throws Exception {
    client = new KubernetesClientBuilder().withConfig(Config.fromKubeconfig(new File(arguments[0]))).build();
    client.resource(new NamespaceBuilder().withNewMetadata().withName(NS).endMetadata().build()).create();
    Cases.soon(() -> !client.serviceAccounts().inNamespace(NS).list().getItems().isEmpty());
    Map<String, Cases.Case> cases = new LinkedHashMap<>();
    cases.put("objects are made, edited, patched, listed and deleted", Fabric8::objects);
    cases.put("server-side apply with a conflict", Fabric8::apply);
    cases.put("an informer with a selector", Fabric8::informer);
    cases.put("watches, one from too old a version", Fabric8::watch);
    cases.put("exec, upload and download", Fabric8::exec);
    cases.put("logs are read, cut and followed", Fabric8::logs);
    cases.put("port-forward", Fabric8::forward);
    cases.put("a Deployment is scaled, restarted and deleted in the foreground", Fabric8::deployment);
    cases.put("a custom resource without a class", Fabric8::custom);
    cases.put("many objects from YAML", Fabric8::yaml);
    cases.put("one of two candidates leads, then the other", Fabric8::leader);
    int failed = Cases.run(cases);
    client.namespaces().withName(NS).delete();
    System.exit(failed > 0 ? 1 : 0);
  }
}
