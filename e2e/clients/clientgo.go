package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"
	appsac "k8s.io/client-go/applyconfigurations/apps/v1"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"
	metav1ac "k8s.io/client-go/applyconfigurations/meta/v1"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/openapi3"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/client-go/tools/pager"
	"k8s.io/client-go/tools/record"
	watchtools "k8s.io/client-go/tools/watch"
	"k8s.io/client-go/util/retry"
)

func intstrInt(port int) intstr.IntOrString { return intstr.FromInt32(int32(port)) }

func clientGoCases() []testCase {
	return []testCase{
		{"an informer streams its first list, resumes and sees everything once", informerStreams},
		{"protobuf and JSON clients see the same objects", protobufAndJSON},
		{"a pager walks all pages", pages},
		{"a retry-watcher goes on from a version", retryWatcher},
		{"discovery, aggregated and not, and the REST mapper agree", discoveryAgrees},
		{"OpenAPI v3 is read group by group", openAPI},
		{"metadata and dynamic informers work without types", untyped},
		{"typed apply configurations own, extract and conflict", applyConfigurations},
		{"conflicting updates are retried", conflicts},
		{"a leader is elected, and another when it lets go", leaders},
		{"both recorders' events arrive, and repeated ones are counted", recorders},
		{"exec by websocket: streams and the exit code", func(w *world) error { return execs(w, true) }},
		{"exec by SPDY: streams and the exit code", func(w *world) error { return execs(w, false) }},
		{"port-forward by websocket tunnel", func(w *world) error { return forwards(w, true) }},
		{"port-forward by SPDY", func(w *world) error { return forwards(w, false) }},
		{"logs are streamed", logs},
		{"subresources: eviction, scale, token, ephemeral containers, binding", subresources},
		{"errors have their reasons", reasons},
	}
}

func configMap(name string, data map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: data}
}

func informerStreams(w *world) error {
	maps := w.set.CoreV1().ConfigMaps(w.ns)
	for i := range 5 {
		if _, err := maps.Create(w.ctx, configMap(fmt.Sprintf("inf-%d", i), nil), metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	var lists, streams atomic.Int32
	config := rest.CopyConfig(w.config)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			if strings.HasSuffix(r.URL.Path, "/configmaps") {
				if r.URL.Query().Get("sendInitialEvents") == "true" {
					streams.Add(1)
				} else if r.URL.Query().Get("watch") == "" && r.Method == http.MethodGet {
					lists.Add(1)
				}
			}
			return next.RoundTrip(r)
		})
	})
	factory := informers.NewSharedInformerFactoryWithOptions(kubernetes.NewForConfigOrDie(config), 0, informers.WithNamespace(w.ns))
	informer := factory.Core().V1().ConfigMaps().Informer()
	var added, updated, deleted atomic.Int32
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { added.Add(1) },
		UpdateFunc: func(any, any) { updated.Add(1) },
		DeleteFunc: func(any) { deleted.Add(1) },
	}); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(w.ctx)
	defer cancel()
	factory.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		return errors.New("not synced")
	}
	before := int32(len(informer.GetStore().List()))
	if _, err := maps.Update(w.ctx, configMap("inf-0", map[string]string{"a": "b"}), metav1.UpdateOptions{}); err != nil {
		return err
	}
	if err := maps.DeleteCollection(w.ctx, metav1.DeleteOptions{}, metav1.ListOptions{FieldSelector: "metadata.name!=kube-root-ca.crt"}); err != nil {
		return err
	}
	err := w.soon("5 deletions", func() (bool, error) { return deleted.Load() >= 5 && updated.Load() == 1, nil })
	return first(err, same("added", added.Load(), before), same("lists, streams", []int32{lists.Load(), streams.Load()}, "[0 1]"))
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func protobufAndJSON(w *world) error {
	config := rest.CopyConfig(w.config)
	config.ContentType, config.AcceptContentTypes = "application/vnd.kubernetes.protobuf", "application/vnd.kubernetes.protobuf"
	set, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	if _, err := set.CoreV1().ConfigMaps(w.ns).Create(w.ctx, configMap("proto", map[string]string{"a": "b"}), metav1.CreateOptions{}); err != nil {
		return err
	}
	for _, ns := range []string{"", "kube-system"} {
		one, err := set.CoreV1().Pods(ns).List(w.ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		two, err := w.set.CoreV1().Pods(ns).List(w.ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		a, _ := json.Marshal(one.Items)
		b, _ := json.Marshal(two.Items)
		if len(one.Items) == len(two.Items) && one.ResourceVersion == two.ResourceVersion && !bytes.Equal(a, b) {
			return fmt.Errorf("pods differ:\n%s\n%s", a, b)
		}
	}
	watcher, err := set.CoreV1().ConfigMaps(w.ns).Watch(w.ctx, metav1.ListOptions{FieldSelector: "metadata.name=proto"})
	if err != nil {
		return err
	}
	defer watcher.Stop()
	event := <-watcher.ResultChan()
	got, ok := event.Object.(*corev1.ConfigMap)
	if !ok {
		return fmt.Errorf("got %T", event.Object)
	}
	return same("data", got.Data, map[string]string{"a": "b"})
}

func pages(w *world) error {
	for i := range 23 {
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("page-%02d", i), Labels: map[string]string{"page": "1"}}}
		if _, err := w.set.CoreV1().Secrets(w.ns).Create(w.ctx, secret, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	walk := pager.New(func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
		return w.set.CoreV1().Secrets(w.ns).List(ctx, o)
	})
	walk.PageSize = 5
	seen := 0
	err := walk.EachListItem(w.ctx, metav1.ListOptions{LabelSelector: "page=1"}, func(runtime.Object) error { seen++; return nil })
	return first(err, same("seen", seen, 23))
}

func retryWatcher(w *world) error {
	list, err := w.set.CoreV1().Secrets(w.ns).List(w.ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	watcher, err := watchtools.NewRetryWatcherWithContext(w.ctx, list.ResourceVersion, &cache.ListWatch{
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			second := int64(1)
			o.TimeoutSeconds = &second
			return w.set.CoreV1().Secrets(w.ns).Watch(ctx, o)
		}})
	if err != nil {
		return err
	}
	defer watcher.Stop()
	go func() {
		for i := range 3 {
			time.Sleep(700 * time.Millisecond)
			_ = w.set.CoreV1().Secrets(w.ns).Delete(w.ctx, fmt.Sprintf("page-%02d", i), metav1.DeleteOptions{})
		}
	}()
	for i := range 3 {
		event := <-watcher.ResultChan()
		object, ok := event.Object.(*corev1.Secret)
		if !ok || event.Type != watch.Deleted || object.Name != fmt.Sprintf("page-%02d", i) {
			return fmt.Errorf("got %v %v", event.Type, event.Object)
		}
	}
	return nil
}

func discoveryAgrees(w *world) error {
	groups, resources, err := w.set.Discovery().ServerGroupsAndResources()
	if err != nil {
		return err
	}
	legacy := discovery.NewDiscoveryClientForConfigOrDie(w.config)
	legacy.UseLegacyDiscovery = true
	oldGroups, oldResources, err := legacy.ServerGroupsAndResources()
	if err != nil {
		return err
	}
	cached := memory.NewMemCacheClient(w.set.Discovery())
	mapper := restmapper.NewShortcutExpander(restmapper.NewDeferredDiscoveryRESTMapper(cached), cached, nil)
	gvk, err := mapper.KindFor(schema.GroupVersionResource{Resource: "deploy"})
	if err != nil {
		return err
	}
	count := func(lists []*metav1.APIResourceList) (n int) {
		for _, list := range lists {
			n += len(list.APIResources)
		}
		return n
	}
	return first(same("groups", len(groups), len(oldGroups)), same("resources", count(resources), count(oldResources)),
		same("deploy", gvk, "apps/v1, Kind=Deployment"))
}

func openAPI(w *world) error {
	root := openapi3.NewRoot(w.set.Discovery().OpenAPIV3())
	versions, err := root.GroupVersions()
	if err != nil {
		return err
	}
	for _, gv := range versions {
		document, err := root.GVSpec(gv)
		if err != nil {
			return fmt.Errorf("%s: %w", gv, err)
		}
		if document.Version != "3.0.0" || (document.Components == nil && len(document.Paths.Paths) > 1) {
			return fmt.Errorf("%s: version %s, no components", gv, document.Version)
		}
	}
	if len(versions) < 20 {
		return fmt.Errorf("only %d group versions", len(versions))
	}
	_, err = w.set.Discovery().OpenAPISchema()
	return err
}

func untyped(w *world) error {
	gvr := corev1.SchemeGroupVersion.WithResource("configmaps")
	meta, err := metadata.NewForConfig(w.config)
	if err != nil {
		return err
	}
	partial, err := meta.Resource(gvr).Namespace(w.ns).List(w.ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	if len(partial.Items) == 0 || partial.Items[0].UID == "" {
		return fmt.Errorf("got %+v", partial)
	}
	client, err := dynamic.NewForConfig(w.config)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(w.ctx)
	defer cancel()
	factory := dynamicinformer.NewFilteredDynamicSharedInformerFactory(client, 0, w.ns, nil)
	informer := factory.ForResource(gvr).Informer()
	factory.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		return errors.New("not synced")
	}
	object := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "dyn"}}}
	if _, err := client.Resource(gvr).Namespace(w.ns).Apply(w.ctx, "dyn", object, metav1.ApplyOptions{FieldManager: "me"}); err != nil {
		return err
	}
	return w.soon("the object", func() (bool, error) { _, found, err := informer.GetStore().GetByKey(w.ns + "/dyn"); return found, err })
}

func applyConfigurations(w *world) error {
	deployments := w.set.AppsV1().Deployments(w.ns)
	wanted := appsac.Deployment("applied", w.ns).WithSpec(appsac.DeploymentSpec().WithReplicas(0).
		WithSelector(metav1ac.LabelSelector().WithMatchLabels(map[string]string{"a": "b"})).
		WithTemplate(corev1ac.PodTemplateSpec().WithLabels(map[string]string{"a": "b"}).
			WithSpec(corev1ac.PodSpec().WithContainers(corev1ac.Container().WithName("c").WithImage(box)))))
	made, err := deployments.Apply(w.ctx, wanted, metav1.ApplyOptions{FieldManager: "one"})
	if err != nil {
		return err
	}
	mine, err := appsac.ExtractDeployment(made, "one")
	if err != nil {
		return err
	}
	a, _ := json.Marshal(wanted)
	b, _ := json.Marshal(mine)
	again, err := deployments.Apply(w.ctx, mine, metav1.ApplyOptions{FieldManager: "one"})
	if err != nil {
		return err
	}
	_, err = deployments.Apply(w.ctx, appsac.Deployment("applied", w.ns).WithSpec(appsac.DeploymentSpec().WithReplicas(1)), metav1.ApplyOptions{FieldManager: "two"})
	if !apierrors.IsConflict(err) {
		return fmt.Errorf("no conflict: %v", err)
	}
	scale, err := deployments.GetScale(w.ctx, "applied", metav1.GetOptions{})
	if err != nil {
		return err
	}
	return first(same("extracted", string(b), string(a)), same("version", again.ResourceVersion == made.ResourceVersion || again.Generation == made.Generation, true),
		same("scale", scale.Spec.Replicas, 0))
}

func conflicts(w *world) error {
	maps := w.set.CoreV1().ConfigMaps(w.ns)
	if _, err := maps.Create(w.ctx, configMap("busy", map[string]string{}), metav1.CreateOptions{}); err != nil {
		return err
	}
	const writers = 8
	results := make(chan error, writers)
	backoff := retry.DefaultBackoff
	backoff.Steps = 50
	for i := range writers {
		go func() {
			results <- retry.RetryOnConflict(backoff, func() error {
				object, err := maps.Get(w.ctx, "busy", metav1.GetOptions{})
				if err != nil {
					return err
				}
				if object.Data == nil {
					object.Data = map[string]string{}
				}
				object.Data[fmt.Sprint(i)] = "x"
				_, err = maps.Update(w.ctx, object, metav1.UpdateOptions{})
				return err
			})
		}()
	}
	for range writers {
		if err := <-results; err != nil {
			return err
		}
	}
	object, err := maps.Get(w.ctx, "busy", metav1.GetOptions{})
	return first(err, same("writers seen", len(object.Data), writers))
}

func leaders(w *world) error {
	led := make(chan string, 4)
	run := func(ctx context.Context, name string) {
		lock := &resourcelock.LeaseLock{LeaseMeta: metav1.ObjectMeta{Name: "lead", Namespace: w.ns}, Client: w.set.CoordinationV1(), LockConfig: resourcelock.ResourceLockConfig{Identity: name}}
		leaderelection.RunOrDie(ctx, leaderelection.LeaderElectionConfig{Lock: lock, LeaseDuration: 3 * time.Second, RenewDeadline: 2 * time.Second, RetryPeriod: 200 * time.Millisecond,
			ReleaseOnCancel: true, Callbacks: leaderelection.LeaderCallbacks{OnStartedLeading: func(context.Context) { led <- name }, OnStoppedLeading: func() {}}})
	}
	one, stop := context.WithCancel(w.ctx)
	go run(one, "one")
	if err := same("first", <-led, "one"); err != nil {
		stop()
		return err
	}
	two, end := context.WithCancel(w.ctx)
	defer end()
	go run(two, "two")
	stop()
	select {
	case name := <-led:
		return same("second", name, "two")
	case <-time.After(10 * time.Second):
		return errors.New("nobody took over")
	}
}

func recorders(w *world) error {
	pod, err := w.set.CoreV1().Pods(w.ns).Get(w.ctx, "box", metav1.GetOptions{})
	if err != nil {
		return err
	}
	old := record.NewBroadcaster()
	defer old.Shutdown()
	old.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: w.set.CoreV1().Events(w.ns)})
	core := old.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "clients"})
	for range 3 {
		core.Event(pod, corev1.EventTypeWarning, "Again", "and again")
	}
	newer := events.NewBroadcaster(&events.EventSinkImpl{Interface: w.set.EventsV1()})
	defer newer.Shutdown()
	if err := newer.StartRecordingToSinkWithContext(w.ctx); err != nil {
		return err
	}
	recorder := newer.NewRecorder(scheme.Scheme, "clients")
	for range 3 {
		recorder.Eventf(pod, nil, corev1.EventTypeNormal, "Newer", "Testing", "note %d", 1)
	}
	if err := w.soon("a counted event", func() (bool, error) {
		list, err := w.set.CoreV1().Events(w.ns).List(w.ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("reason", "Again").String()})
		return err == nil && len(list.Items) == 1 && list.Items[0].Count == 3, err
	}); err != nil {
		return err
	}
	return w.soon("a series", func() (bool, error) {
		list, err := w.set.EventsV1().Events(w.ns).List(w.ctx, metav1.ListOptions{FieldSelector: "regarding.name=box,reason=Newer"})
		if err != nil || len(list.Items) != 1 {
			return false, err
		}
		var event eventsv1.Event = list.Items[0]
		return event.Series != nil && event.Series.Count >= 2 && event.Action == "Testing", nil
	})
}

func subresources(w *world) error {
	pods := w.set.CoreV1().Pods(w.ns)
	patch := []byte(`{"spec":{"ephemeralContainers":[{"name":"e","image":"` + box + `","command":["sleep","60"]}]}}`)
	if _, err := pods.Patch(w.ctx, "box", types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "ephemeralcontainers"); err != nil {
		return err
	}
	if err := w.soon("the ephemeral container", func() (bool, error) {
		pod, err := pods.Get(w.ctx, "box", metav1.GetOptions{})
		return err == nil && len(pod.Status.EphemeralContainerStatuses) == 1 && pod.Status.EphemeralContainerStatuses[0].State.Running != nil, err
	}); err != nil {
		return err
	}
	if err := pods.EvictV1(w.ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "box"}}); err != nil {
		return err
	}
	if err := w.soon("the eviction", func() (bool, error) {
		_, err := pods.Get(w.ctx, "box", metav1.GetOptions{})
		return apierrors.IsNotFound(err), nil
	}); err != nil {
		return err
	}
	scale, err := w.set.AppsV1().Deployments(w.ns).GetScale(w.ctx, "applied", metav1.GetOptions{})
	if err != nil {
		return err
	}
	scale.Spec.Replicas = 1
	if _, err := w.set.AppsV1().Deployments(w.ns).UpdateScale(w.ctx, "applied", scale, metav1.UpdateOptions{}); err != nil {
		return err
	}
	err = w.set.CoreV1().Pods(w.ns).Bind(w.ctx, &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Target: corev1.ObjectReference{Kind: "Node", Name: "other"}}, metav1.CreateOptions{})
	if !apierrors.IsConflict(err) {
		return fmt.Errorf("a second binding: %v", err)
	}
	return nil
}

func reasons(w *world) error {
	pods := w.set.CoreV1().Pods(w.ns)
	_, notFound := pods.Get(w.ctx, "nope", metav1.GetOptions{})
	_, invalid := pods.Create(w.ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "x"}}, metav1.CreateOptions{})
	_, exists := w.set.CoreV1().Namespaces().Create(w.ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: w.ns}}, metav1.CreateOptions{})
	_, bad := pods.List(w.ctx, metav1.ListOptions{FieldSelector: "spec.nope=1"})
	nobody := rest.CopyConfig(w.config)
	nobody.Impersonate.UserName = "nobody"
	_, forbidden := kubernetes.NewForConfigOrDie(nobody).CoreV1().Secrets(w.ns).List(w.ctx, metav1.ListOptions{})
	anonymous := rest.AnonymousClientConfig(w.config)
	anonymous.BearerToken = "nope"
	_, unauthorized := kubernetes.NewForConfigOrDie(anonymous).CoreV1().Secrets(w.ns).List(w.ctx, metav1.ListOptions{})
	_, unknown := restmapper.NewDiscoveryRESTMapper(nil).KindFor(schema.GroupVersionResource{Resource: "x"})
	causes, _ := apierrors.StatusCause(invalid, metav1.CauseTypeFieldValueRequired)
	return first(same("not found", apierrors.IsNotFound(notFound), true), same("invalid", apierrors.IsInvalid(invalid), true),
		same("exists", apierrors.IsAlreadyExists(exists), true),
		same("bad", apierrors.IsBadRequest(bad), true), same("forbidden", apierrors.IsForbidden(forbidden), true),
		same("unauthorized", apierrors.IsUnauthorized(unauthorized), true), same("no match", meta.IsNoMatchError(unknown), true),
		same("cause", causes.Field, "spec.containers"))
}
