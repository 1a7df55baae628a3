import java.util.Map;
import java.util.concurrent.Callable;

/** What both programs need to try things and say how it went. */
final class Cases {
  static final String BOX = "registry.k8s.io/e2e-test-images/busybox:1.37.0-1", AGN = "registry.k8s.io/e2e-test-images/agnhost:2.63.0";

  interface Case { void run() throws Exception; }

  static void is(boolean right, Object what) {
    if (!right) throw new AssertionError(String.valueOf(what));
  }

  /** Waits until what is asked for is there: neither nothing nor false. */
  static <T> T soon(Callable<T> what) throws Exception {
    for (long end = System.nanoTime() + 60_000_000_000L; System.nanoTime() < end; Thread.sleep(100)) {
      T value = what.call();
      if (value != null && !Boolean.FALSE.equals(value)) return value;
    }
    throw new AssertionError("not within a minute");
  }

  /** Runs all and says how many passed; how many failed is the answer. */
  static int run(Map<String, Case> cases) {
    int failed = 0;
    for (var each : cases.entrySet()) {
      try {
        each.getValue().run();
        System.out.println("ok   " + each.getKey());
      } catch (Throwable error) {
        failed++;
        System.out.println("FAIL " + each.getKey());
        error.printStackTrace(System.out);
      }
    }
    System.out.println(cases.size() - failed + " passed, " + failed + " failed");
    return failed;
  }
}
