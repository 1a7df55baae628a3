package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/controller-runtime/pkg/metrics/filters"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	boats "clients/boats"
)

// operator is a running manager with what it was installed with.
type operator struct {
	manager ctrl.Manager
	client  client.Client
	metrics string
	stop    context.CancelFunc
	ended   chan error
	tested  *envtest.Environment
}

var installed *operator

func operatorCases() []testCase {
	return []testCase{
		{"envtest installs the definitions and webhooks of an operator", install},
		{"a manager elects itself, fills its caches and reconciles", reconciles},
		{"the defaulting and the validating webhook are asked", webhooks},
		{"versions are converted by the operator's webhook", converts},
		{"an owned object that is deleted comes back, finalizers run", ownsAndFinalizes},
		{"an index, a field selector and a metadata-only read", reads},
		{"the operator's metrics ask for a token and for permission", metrics},
		{"the manager stops in order and lets its lease go", stops},
	}
}

func install(w *world) error {
	if err := first(boats.AddToScheme(scheme.Scheme), apiextensionsv1.AddToScheme(scheme.Scheme)); err != nil {
		return err
	}
	yes, fail, none := true, admissionv1.Fail, admissionv1.SideEffectClassNone
	rules := func(operations ...admissionv1.OperationType) []admissionv1.RuleWithOperations {
		return []admissionv1.RuleWithOperations{{Operations: operations, Rule: admissionv1.Rule{APIGroups: []string{boats.Group}, APIVersions: []string{"v1"}, Resources: []string{"boats"}}}}
	}
	config := func(path string) admissionv1.WebhookClientConfig {
		return admissionv1.WebhookClientConfig{Service: &admissionv1.ServiceReference{Name: "x", Namespace: "x", Path: &path}}
	}
	here := &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": w.ns}}
	tested := &envtest.Environment{
		UseExistingCluster: &yes, Config: w.config, Scheme: scheme.Scheme,
		CRDInstallOptions: envtest.CRDInstallOptions{CRDs: []*apiextensionsv1.CustomResourceDefinition{boats.Definition()}},
		WebhookInstallOptions: envtest.WebhookInstallOptions{
			MutatingWebhooks: []*admissionv1.MutatingWebhookConfiguration{{ObjectMeta: metav1.ObjectMeta{Name: w.ns},
				Webhooks: []admissionv1.MutatingWebhook{{Name: "defaults.clients.example", ClientConfig: config("/mutate-clients-example-v1-boat"), Rules: rules("CREATE", "UPDATE"),
					FailurePolicy: &fail, SideEffects: &none, AdmissionReviewVersions: []string{"v1"}, NamespaceSelector: here}}}},
			ValidatingWebhooks: []*admissionv1.ValidatingWebhookConfiguration{{ObjectMeta: metav1.ObjectMeta{Name: w.ns},
				Webhooks: []admissionv1.ValidatingWebhook{{Name: "rules.clients.example", ClientConfig: config("/validate-clients-example-v1-boat"), Rules: rules("CREATE", "UPDATE", "DELETE"),
					FailurePolicy: &fail, SideEffects: &none, AdmissionReviewVersions: []string{"v1"}, NamespaceSelector: here}}}},
		},
	}
	// envtest serves webhooks only when it says where: it installs them with the definitions.
	if _, err := tested.Start(); err != nil {
		return err
	}
	installed = &operator{tested: tested, ended: make(chan error, 1)}
	return nil
}

func reconciles(w *world) error {
	o := installed
	if o == nil {
		return errors.New("not installed")
	}
	hooks := o.tested.WebhookInstallOptions
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	o.metrics = free.Addr().String()
	free.Close()
	manager, err := ctrl.NewManager(w.config, ctrl.Options{
		Scheme:         scheme.Scheme,
		LeaderElection: true, LeaderElectionID: "boats.clients.example", LeaderElectionNamespace: w.ns, LeaderElectionReleaseOnCancel: true,
		Metrics:       metricsserver.Options{BindAddress: o.metrics, SecureServing: true, FilterProvider: filters.WithAuthenticationAndAuthorization},
		WebhookServer: webhook.NewServer(webhook.Options{Host: hooks.LocalServingHost, Port: hooks.LocalServingPort, CertDir: hooks.LocalServingCertDir}),
		Cache:         cache.Options{DefaultNamespaces: map[string]cache.Config{w.ns: {}}},
	})
	if err != nil {
		return err
	}
	o.manager, o.client = manager, manager.GetClient()
	if err := manager.GetFieldIndexer().IndexField(w.ctx, &boats.Boat{}, "spec.harbour", func(o client.Object) []string {
		return []string{o.(*boats.Boat).Spec.Harbour}
	}); err != nil {
		return err
	}
	reconciler := &boatReconciler{Client: manager.GetClient(), scheme: scheme.Scheme, recorder: manager.GetEventRecorder("boats")}
	if err := builder.ControllerManagedBy(manager).For(&boats.Boat{}).Owns(&corev1.ConfigMap{}).Complete(reconciler); err != nil {
		return err
	}
	if err := builder.WebhookManagedBy(manager, &boats.Boat{}).WithDefaulter(defaulter{}).WithValidator(validator{}).Complete(); err != nil {
		return err
	}
	ctx, stop := context.WithCancel(w.ctx)
	o.stop = stop
	go func() { o.ended <- manager.Start(ctx) }()
	select {
	case <-manager.Elected():
	case err := <-o.ended:
		return fmt.Errorf("the manager ended: %w", err)
	case <-time.After(20 * time.Second):
		return errors.New("not elected")
	}
	if err := w.soon("the webhook server", func() (bool, error) {
		return manager.GetWebhookServer().StartedChecker()(nil) == nil, nil
	}); err != nil {
		return err
	}
	if err := o.client.Create(w.ctx, boat(w, "ida", "Kiel")); err != nil {
		return err
	}
	return w.soon("the status", func() (bool, error) {
		got := &boats.Boat{}
		err := o.client.Get(w.ctx, client.ObjectKey{Namespace: w.ns, Name: "ida"}, got)
		return err == nil && got.Status.Map == "ida-map" && got.Status.ObservedGeneration == got.Generation, client.IgnoreNotFound(err)
	})
}

func boat(w *world, name, harbour string) *boats.Boat {
	return &boats.Boat{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: w.ns}, Spec: boats.BoatSpec{Harbour: harbour}}
}

type boatReconciler struct {
	client.Client
	scheme   *runtime.Scheme
	recorder events.EventRecorder
}

const finalizer = "clients.example/harbour"

func (r *boatReconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	object := &boats.Boat{}
	if err := r.Get(ctx, request.NamespacedName, object); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if !object.DeletionTimestamp.IsZero() {
		if controllerutil.RemoveFinalizer(object, finalizer) {
			r.recorder.Eventf(object, nil, corev1.EventTypeNormal, "Sunk", "Finalize", "gone from %s", object.Spec.Harbour)
			return ctrl.Result{}, r.Update(ctx, object)
		}
		return ctrl.Result{}, nil
	}
	if controllerutil.AddFinalizer(object, finalizer) {
		if err := r.Update(ctx, object); err != nil {
			return ctrl.Result{}, err
		}
	}
	chart := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: object.Name + "-map", Namespace: object.Namespace}}
	if _, err := controllerutil.CreateOrUpdate(ctx, r.Client, chart, func() error {
		chart.Data = map[string]string{"harbour": object.Spec.Harbour}
		return controllerutil.SetControllerReference(object, chart, r.scheme)
	}); err != nil {
		return ctrl.Result{}, err
	}
	before := object.DeepCopyObject().(*boats.Boat)
	object.Status = boats.BoatStatus{Map: chart.Name, ObservedGeneration: object.Generation}
	return ctrl.Result{}, client.IgnoreNotFound(r.Status().Patch(ctx, object, client.MergeFrom(before)))
}

type defaulter struct{}

func (defaulter) Default(_ context.Context, object *boats.Boat) error {
	if object.Spec.Length == 0 {
		object.Spec.Length = 7
	}
	return nil
}

type validator struct{}

func (validator) ValidateCreate(_ context.Context, object *boats.Boat) (admission.Warnings, error) {
	if object.Spec.Harbour == "Atlantis" {
		return nil, errors.New("that harbour is under water")
	}
	return nil, nil
}

func (validator) ValidateUpdate(_ context.Context, old, object *boats.Boat) (admission.Warnings, error) {
	if old.Spec.Harbour != object.Spec.Harbour {
		return admission.Warnings{"the boat is under way"}, nil
	}
	return nil, nil
}

func (validator) ValidateDelete(_ context.Context, object *boats.Boat) (admission.Warnings, error) {
	if object.Labels["keep"] != "" {
		return nil, apierrors.NewForbidden(boats.GroupVersion.WithResource("boats").GroupResource(), object.Name, errors.New("it is kept"))
	}
	return nil, nil
}

func webhooks(w *world) error {
	o := installed
	got := &boats.Boat{}
	if err := o.client.Get(w.ctx, client.ObjectKey{Namespace: w.ns, Name: "ida"}, got); err != nil {
		return err
	}
	err := o.client.Create(w.ctx, boat(w, "bad", "Atlantis"))
	if err == nil || !strings.Contains(err.Error(), `admission webhook "rules.clients.example" denied the request: that harbour is under water`) {
		return fmt.Errorf("not refused: %v", err)
	}
	kept := boat(w, "kept", "Kiel")
	kept.Labels = map[string]string{"keep": "1"}
	if err := o.client.Create(w.ctx, kept); err != nil {
		return err
	}
	if err := o.client.Delete(w.ctx, kept); !apierrors.IsForbidden(err) {
		return fmt.Errorf("not forbidden: %v", err)
	}
	invalid := boat(w, "long", "Kiel")
	invalid.Spec.Length = 1000
	if err := o.client.Create(w.ctx, invalid); !apierrors.IsInvalid(err) {
		return fmt.Errorf("not invalid: %v", err)
	}
	dry := boat(w, "dry", "Kiel")
	err = o.client.Create(w.ctx, dry, client.DryRunAll)
	return first(err, same("length", got.Spec.Length, 7), same("dry length", dry.Spec.Length, 7))
}

func converts(w *world) error {
	direct, err := client.New(w.config, client.Options{Scheme: scheme.Scheme})
	if err != nil {
		return err
	}
	old := &boats.OldBoat{}
	old.SetGroupVersionKind(boats.OldVersion.WithKind("Boat"))
	if err := direct.Get(w.ctx, client.ObjectKey{Namespace: w.ns, Name: "ida"}, old); err != nil {
		return err
	}
	if err := same("port", old.Spec.Port, "Kiel"); err != nil {
		return err
	}
	made := &boats.OldBoat{ObjectMeta: metav1.ObjectMeta{Name: "elder", Namespace: w.ns}, Spec: boats.OldBoatSpec{Port: "Husum", Length: 3}}
	if err := direct.Create(w.ctx, made); err != nil {
		return err
	}
	got := &boats.Boat{}
	if err := direct.Get(w.ctx, client.ObjectKey{Namespace: w.ns, Name: "elder"}, got); err != nil {
		return err
	}
	list := &boats.OldBoatList{}
	if err := direct.List(w.ctx, list, client.InNamespace(w.ns)); err != nil {
		return err
	}
	for _, item := range list.Items {
		if item.Spec.Port == "" {
			return fmt.Errorf("%s is not converted", item.Name)
		}
	}
	return first(same("harbour", got.Spec.Harbour, "Husum"), same("boats", len(list.Items), 3))
}

func ownsAndFinalizes(w *world) error {
	o := installed
	key := client.ObjectKey{Namespace: w.ns, Name: "elder-map"}
	chart := &corev1.ConfigMap{}
	if err := w.soon("the map", func() (bool, error) {
		err := o.client.Get(w.ctx, key, chart)
		return err == nil, client.IgnoreNotFound(err)
	}); err != nil {
		return err
	}
	uid := chart.UID
	if err := o.client.Delete(w.ctx, chart); err != nil {
		return err
	}
	if err := w.soon("the next map", func() (bool, error) {
		err := o.client.Get(w.ctx, key, chart)
		return err == nil && chart.UID != uid, client.IgnoreNotFound(err)
	}); err != nil {
		return err
	}
	elder := boat(w, "elder", "")
	if err := o.client.Delete(w.ctx, elder, client.PropagationPolicy(metav1.DeletePropagationForeground)); err != nil {
		return err
	}
	for _, object := range []client.Object{elder, chart} {
		if err := w.soon("its end", func() (bool, error) {
			return apierrors.IsNotFound(o.client.Get(w.ctx, client.ObjectKeyFromObject(object), object)), nil
		}); err != nil {
			return err
		}
	}
	return w.soon("its event", func() (bool, error) {
		list, err := w.set.CoreV1().Events(w.ns).List(w.ctx, metav1.ListOptions{FieldSelector: "reason=Sunk,involvedObject.name=elder"})
		// One for each try: somebody else's write in between makes another.
		return err == nil && len(list.Items) >= 1, err
	})
}

func reads(w *world) error {
	o := installed
	list := &boats.BoatList{}
	if err := o.client.List(w.ctx, list, client.InNamespace(w.ns), client.MatchingFields{"spec.harbour": "Kiel"}); err != nil {
		return err
	}
	direct := &boats.BoatList{}
	if err := o.manager.GetAPIReader().List(w.ctx, direct, client.InNamespace(w.ns), client.MatchingFields{"spec.harbour": "Kiel"}); err != nil {
		return err
	}
	none := &boats.BoatList{}
	if err := o.manager.GetAPIReader().List(w.ctx, none, client.InNamespace(w.ns), client.MatchingFields{"spec.harbour": "Rome"}); err != nil {
		return err
	}
	partial := &metav1.PartialObjectMetadata{}
	partial.SetGroupVersionKind(boats.GroupVersion.WithKind("Boat"))
	err := o.client.Get(w.ctx, client.ObjectKey{Namespace: w.ns, Name: "ida"}, partial)
	return first(err, same("indexed", len(list.Items), 2), same("selected", len(direct.Items), 2), same("not selected", len(none.Items), 0),
		same("finalizers", partial.Finalizers, "["+finalizer+"]"))
}

func metrics(w *world) error {
	o := installed
	ask := func(token string) (int, string, error) {
		request, err := http.NewRequestWithContext(w.ctx, http.MethodGet, "https://"+o.metrics+"/metrics", nil)
		if err != nil {
			return 0, "", err
		}
		if token != "" {
			request.Header.Set("Authorization", "Bearer "+token)
		}
		insecure := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
		answer, err := insecure.Do(request)
		if err != nil {
			return 0, "", err
		}
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		return answer.StatusCode, string(text), err
	}
	token, err := w.set.CoreV1().ServiceAccounts(w.ns).CreateToken(w.ctx, "default", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	without, _, err := ask("")
	if err != nil {
		return err
	}
	// A refusal is remembered for half a minute, so somebody else is refused.
	other := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "refused", Namespace: w.ns}}
	if _, err := w.set.CoreV1().ServiceAccounts(w.ns).Create(w.ctx, other, metav1.CreateOptions{}); err != nil {
		return err
	}
	refused, err := w.set.CoreV1().ServiceAccounts(w.ns).CreateToken(w.ctx, other.Name, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	early, _, err := ask(refused.Status.Token)
	if err != nil {
		return err
	}
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: w.ns}, Rules: []rbacv1.PolicyRule{{Verbs: []string{"get"}, NonResourceURLs: []string{"/metrics"}}}}
	binding := &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: w.ns}, RoleRef: rbacv1.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "ClusterRole", Name: w.ns},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Name: "default", Namespace: w.ns}}}
	if _, err := w.set.RbacV1().ClusterRoles().Create(w.ctx, role, metav1.CreateOptions{}); err != nil {
		return err
	}
	if _, err := w.set.RbacV1().ClusterRoleBindings().Create(w.ctx, binding, metav1.CreateOptions{}); err != nil {
		return err
	}
	defer func() {
		_ = w.set.RbacV1().ClusterRoleBindings().Delete(w.ctx, w.ns, metav1.DeleteOptions{})
		_ = w.set.RbacV1().ClusterRoles().Delete(w.ctx, w.ns, metav1.DeleteOptions{})
	}()
	var text string
	err = w.soon("the permission", func() (bool, error) {
		code, body, err := ask(token.Status.Token)
		text = body
		return code == http.StatusOK, err
	})
	return first(err, same("without a token", without, 401), same("without permission", early, 403),
		same("counts", strings.Contains(text, "controller_runtime_reconcile_total"), true))
}

func stops(w *world) error {
	o := installed
	for _, name := range []string{"ida", "kept"} {
		object := &boats.Boat{}
		if err := o.client.Get(w.ctx, client.ObjectKey{Namespace: w.ns, Name: name}, object); err != nil {
			return err
		}
		object.Labels = nil
		if err := o.client.Update(w.ctx, object); err != nil {
			return err
		}
		if err := o.client.Delete(w.ctx, object); err != nil {
			return err
		}
		if err := w.soon("the end of "+name, func() (bool, error) {
			_, err := o.client.RESTMapper().RESTMapping(boats.GroupVersion.WithKind("Boat").GroupKind(), "v1")
			gone := apierrors.IsNotFound(o.manager.GetAPIReader().Get(w.ctx, client.ObjectKeyFromObject(object), object))
			return gone, err
		}); err != nil {
			return err
		}
	}
	o.stop()
	if err := <-o.ended; err != nil {
		return err
	}
	lease, err := w.set.CoordinationV1().Leases(w.ns).Get(w.ctx, "boats.clients.example", metav1.GetOptions{})
	if err != nil {
		return err
	}
	if err := same("holder", *lease.Spec.HolderIdentity, ""); err != nil {
		return err
	}
	for _, hook := range []client.Object{&admissionv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: w.ns}}, &admissionv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: w.ns}}} {
		if err := o.client.Delete(w.ctx, hook); err != nil {
			return err
		}
	}
	if err := envtest.UninstallCRDs(w.config, o.tested.CRDInstallOptions); err != nil {
		return err
	}
	return os.RemoveAll(o.tested.WebhookInstallOptions.LocalServingCertDir)
}
