// Command clients does what programs on client-go and controller-runtime do, against the cluster of a kubeconfig and its containers:
// informers with streamed lists, exec and port-forward over both protocols, an operator with webhooks and converted versions.
// usage: clients KUBECONFIG. Ends with 'N passed, N failed'.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
)

const (
	box = "registry.k8s.io/e2e-test-images/busybox:1.37.0-1"
	agn = "registry.k8s.io/e2e-test-images/agnhost:2.63.0"
)

// world is what every case works with.
type world struct {
	ctx    context.Context
	config *rest.Config
	set    *kubernetes.Clientset
	ns     string
}

type testCase struct {
	name string
	run  func(*world) error
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: clients KUBECONFIG")
		os.Exit(2)
	}
	config, err := clientcmd.BuildConfigFromFlags("", os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	config.QPS, config.Burst = 500, 1000
	ctrl.SetLogger(klog.Background())
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	w := &world{ctx: ctx, config: config, set: kubernetes.NewForConfigOrDie(config), ns: fmt.Sprintf("clients-%d", os.Getpid())}
	if err := w.begin(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	passed, failed := 0, 0
	for _, c := range append(clientGoCases(), operatorCases()...) {
		if err := c.run(w); err != nil {
			failed++
			fmt.Printf("FAIL %s\n     %v\n", c.name, err)
		} else {
			passed++
			fmt.Println("ok  ", c.name)
		}
	}
	if err := w.set.CoreV1().Namespaces().Delete(ctx, w.ns, metav1.DeleteOptions{}); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	fmt.Printf("%d passed, %d failed\n", passed, failed)
	if failed > 0 {
		os.Exit(1)
	}
}

// begin makes the namespace and the pods that cases talk to.
func (w *world) begin() error {
	if _, err := w.set.CoreV1().Namespaces().Create(w.ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: w.ns}}, metav1.CreateOptions{}); err != nil {
		return err
	}
	if err := w.soon("the default account", func() (bool, error) {
		_, err := w.set.CoreV1().ServiceAccounts(w.ns).Get(w.ctx, "default", metav1.GetOptions{})
		return err == nil, nil
	}); err != nil {
		return err
	}
	for name, container := range map[string]corev1.Container{
		"box": {Name: "c", Image: box, Command: []string{"sleep", "3600"}},
		"web": {Name: "c", Image: agn, Args: []string{"netexec", "--http-port=8080"}, ReadinessProbe: &corev1.Probe{
			PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstrInt(8080)}}}},
	} {
		grace := int64(0)
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name}},
			Spec: corev1.PodSpec{Containers: []corev1.Container{container}, TerminationGracePeriodSeconds: &grace}}
		if _, err := w.set.CoreV1().Pods(w.ns).Create(w.ctx, pod, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	return nil
}

// soon waits until what happens, for half a minute.
func (w *world) soon(name string, what func() (bool, error)) error {
	err := wait.PollUntilContextTimeout(w.ctx, 50*time.Millisecond, 30*time.Second, true, func(context.Context) (bool, error) { return what() })
	if err != nil {
		return fmt.Errorf("waiting for %s: %w", name, err)
	}
	return nil
}

// same is an error unless both print alike.
func same(what string, got, want any) error {
	if fmt.Sprint(got) != fmt.Sprint(want) {
		return fmt.Errorf("%s: got %v, want %v", what, got, want)
	}
	return nil
}

// first is the first of what went wrong.
func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
