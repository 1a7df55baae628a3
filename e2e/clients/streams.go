package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	watchtools "k8s.io/client-go/tools/watch"
	"k8s.io/client-go/transport/spdy"
)

func running(w *world, name string) error {
	ctx, cancel := context.WithTimeout(w.ctx, 30*time.Second)
	defer cancel()
	selector := fields.OneTermEqualSelector("metadata.name", name).String()
	watcher := cache.NewListWatchFromClient(w.set.CoreV1().RESTClient(), "pods", w.ns, fields.ParseSelectorOrDie(selector))
	_, err := watchtools.UntilWithSync(ctx, watcher, &corev1.Pod{}, nil, func(event watch.Event) (bool, error) {
		pod := event.Object.(*corev1.Pod)
		return len(pod.Status.ContainerStatuses) > 0 && pod.Status.ContainerStatuses[0].Ready, nil
	})
	return err
}

func execs(w *world, websocket bool) error {
	if err := running(w, "box"); err != nil {
		return err
	}
	start := func(tty bool, command ...string) (remotecommand.Executor, error) {
		request := w.set.CoreV1().RESTClient().Post().Resource("pods").Namespace(w.ns).Name("box").SubResource("exec").
			VersionedParams(&corev1.PodExecOptions{Command: command, Stdin: true, Stdout: true, Stderr: !tty, TTY: tty}, scheme.ParameterCodec)
		if websocket {
			return remotecommand.NewWebSocketExecutor(w.config, "GET", request.URL().String())
		}
		return remotecommand.NewSPDYExecutor(w.config, "POST", request.URL())
	}
	sent := bytes.Repeat([]byte{0, 1, 2, 255, '\n'}, 40_000)
	executor, err := start(false, "sh", "-c", "cat; echo bad >&2; exit 7")
	if err != nil {
		return err
	}
	var out, bad bytes.Buffer
	err = executor.StreamWithContext(w.ctx, remotecommand.StreamOptions{Stdin: bytes.NewReader(sent), Stdout: &out, Stderr: &bad})
	var exit interface{ ExitStatus() int }
	if !errors.As(err, &exit) || exit.ExitStatus() != 7 {
		return fmt.Errorf("exit: %v", err)
	}
	if !bytes.Equal(out.Bytes(), sent) || bad.String() != "bad\n" {
		return fmt.Errorf("%d bytes of %d came back, and %q", out.Len(), len(sent), bad.String())
	}
	out.Reset()
	sizes := make(sizeQueue, 1)
	sizes <- remotecommand.TerminalSize{Width: 123, Height: 45}
	if executor, err = start(true, "sh", "-c", "until [ \"$(stty size 2>/dev/null)\" = '45 123' ]; do sleep 0.1; done; stty size"); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(w.ctx, 20*time.Second)
	defer cancel()
	input, hold := io.Pipe()
	defer hold.Close()
	if err := executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: input, Stdout: &out, Tty: true, TerminalSizeQueue: sizes}); err != nil {
		return fmt.Errorf("tty: %w", err)
	}
	if err := same("size", out.String(), "45 123\r\n"); err != nil {
		return err
	}
	if executor, err = start(false, "nope"); err != nil {
		return err
	}
	err = executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: io.Discard})
	if err == nil || !strings.Contains(err.Error(), "executable file not found") {
		return fmt.Errorf("a missing command: %v", err)
	}
	return nil
}

type sizeQueue chan remotecommand.TerminalSize

func (q sizeQueue) Next() *remotecommand.TerminalSize {
	size, ok := <-q
	if !ok {
		return nil
	}
	return &size
}

func forwards(w *world, websocket bool) error {
	if err := running(w, "web"); err != nil {
		return err
	}
	url := w.set.CoreV1().RESTClient().Post().Resource("pods").Namespace(w.ns).Name("web").SubResource("portforward").URL()
	transport, upgrader, err := spdy.RoundTripperFor(w.config)
	if err != nil {
		return err
	}
	dialer := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, "POST", url)
	if websocket {
		if dialer, err = portforward.NewSPDYOverWebsocketDialer(url, w.config); err != nil {
			return err
		}
	}
	stop, ready := make(chan struct{}), make(chan struct{})
	forwarder, err := portforward.New(dialer, []string{"0:8080"}, stop, ready, io.Discard, io.Discard)
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- forwarder.ForwardPorts() }()
	defer close(stop)
	select {
	case <-ready:
	case err := <-ended:
		return err
	}
	ports, err := forwarder.GetPorts()
	if err != nil {
		return err
	}
	for range 20 {
		answer, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/hostname", ports[0].Local))
		if err != nil {
			return err
		}
		text, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		if err := first(err, same("answer", string(text), "web")); err != nil {
			return err
		}
		http.DefaultClient.CloseIdleConnections()
	}
	return nil
}

func logs(w *world) error {
	grace := int64(0)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "talk"}, Spec: corev1.PodSpec{RestartPolicy: "Never", TerminationGracePeriodSeconds: &grace,
		Containers: []corev1.Container{{Name: "c", Image: box, Command: []string{"sh", "-c", "for i in 1 2 3; do echo $i; sleep 0.3; done"}}}}}
	if _, err := w.set.CoreV1().Pods(w.ns).Create(w.ctx, pod, metav1.CreateOptions{}); err != nil {
		return err
	}
	if err := w.soon("a start", func() (bool, error) {
		got, err := w.set.CoreV1().Pods(w.ns).Get(w.ctx, "talk", metav1.GetOptions{})
		return err == nil && got.Status.Phase != corev1.PodPending, err
	}); err != nil {
		return err
	}
	stream, err := w.set.CoreV1().Pods(w.ns).GetLogs("talk", &corev1.PodLogOptions{Follow: true}).Stream(w.ctx)
	if err != nil {
		return err
	}
	defer stream.Close()
	text, err := io.ReadAll(stream)
	return first(err, same("log", string(text), "1\n2\n3\n"))
}
