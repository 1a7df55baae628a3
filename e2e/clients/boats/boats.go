// Package boats is the API of the operator that is tested: a kind in two versions, the older one with another name for a field.
package boats

import (
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/conversion"
)

// Group is the API group.
const Group = "clients.example"

// The served versions.
var (
	GroupVersion = schema.GroupVersion{Group: Group, Version: "v1"}
	OldVersion   = schema.GroupVersion{Group: Group, Version: "v1beta1"}
)

// AddToScheme makes the kinds known.
func AddToScheme(scheme *runtime.Scheme) error {
	scheme.AddKnownTypes(GroupVersion, &Boat{}, &BoatList{})
	scheme.AddKnownTypeWithName(OldVersion.WithKind("Boat"), &OldBoat{})
	scheme.AddKnownTypeWithName(OldVersion.WithKind("BoatList"), &OldBoatList{})
	metav1.AddToGroupVersion(scheme, GroupVersion)
	metav1.AddToGroupVersion(scheme, OldVersion)
	return nil
}

// Boat is the stored version.
type Boat struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              BoatSpec   `json:"spec,omitempty"`
	Status            BoatStatus `json:"status,omitempty"`
}

// BoatSpec is what is wanted.
type BoatSpec struct {
	Harbour string `json:"harbour,omitempty"`
	Length  int    `json:"length,omitempty"`
}

// BoatStatus is what the operator saw.
type BoatStatus struct {
	Map                string `json:"map,omitempty"`
	ObservedGeneration int64  `json:"observedGeneration,omitempty"`
}

// BoatList is a list.
type BoatList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Boat `json:"items"`
}

// OldBoat is the older version.
type OldBoat struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              OldBoatSpec `json:"spec,omitempty"`
	Status            BoatStatus  `json:"status,omitempty"`
}

// OldBoatSpec has the older name.
type OldBoatSpec struct {
	Port   string `json:"port,omitempty"`
	Length int    `json:"length,omitempty"`
}

// OldBoatList is a list.
type OldBoatList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []OldBoat `json:"items"`
}

// Hub marks the version that others are converted by.
func (*Boat) Hub() {}

// ConvertTo makes the newer version.
func (b *OldBoat) ConvertTo(to conversion.Hub) error {
	hub := to.(*Boat)
	hub.ObjectMeta, hub.Status = b.ObjectMeta, b.Status
	hub.Spec = BoatSpec{Harbour: b.Spec.Port, Length: b.Spec.Length}
	return nil
}

// ConvertFrom makes the older version.
func (b *OldBoat) ConvertFrom(from conversion.Hub) error {
	hub := from.(*Boat)
	b.ObjectMeta, b.Status = hub.ObjectMeta, hub.Status
	b.Spec = OldBoatSpec{Port: hub.Spec.Harbour, Length: hub.Spec.Length}
	return nil
}

// DeepCopyObject is what runtime.Object asks for.
func (b *Boat) DeepCopyObject() runtime.Object {
	out := *b
	b.ObjectMeta.DeepCopyInto(&out.ObjectMeta)
	return &out
}

// DeepCopyObject is what runtime.Object asks for.
func (b *BoatList) DeepCopyObject() runtime.Object {
	out := *b
	b.ListMeta.DeepCopyInto(&out.ListMeta)
	out.Items = nil
	for i := range b.Items {
		out.Items = append(out.Items, *b.Items[i].DeepCopyObject().(*Boat))
	}
	return &out
}

// DeepCopyObject is what runtime.Object asks for.
func (b *OldBoat) DeepCopyObject() runtime.Object {
	out := *b
	b.ObjectMeta.DeepCopyInto(&out.ObjectMeta)
	return &out
}

// DeepCopyObject is what runtime.Object asks for.
func (b *OldBoatList) DeepCopyObject() runtime.Object {
	out := *b
	b.ListMeta.DeepCopyInto(&out.ListMeta)
	out.Items = nil
	for i := range b.Items {
		out.Items = append(out.Items, *b.Items[i].DeepCopyObject().(*OldBoat))
	}
	return &out
}

// Definition is what is installed. envtest fills in where the conversion webhook is.
func Definition() *apiextensionsv1.CustomResourceDefinition {
	text := apiextensionsv1.JSONSchemaProps{Type: "string"}
	most := float64(500)
	length := apiextensionsv1.JSONSchemaProps{Type: "integer", Maximum: &most}
	status := apiextensionsv1.JSONSchemaProps{Type: "object", Properties: map[string]apiextensionsv1.JSONSchemaProps{"map": text, "observedGeneration": {Type: "integer", Format: "int64"}}}
	version := func(name, field string, storage bool) apiextensionsv1.CustomResourceDefinitionVersion {
		spec := apiextensionsv1.JSONSchemaProps{Type: "object", Properties: map[string]apiextensionsv1.JSONSchemaProps{field: text, "length": length}}
		return apiextensionsv1.CustomResourceDefinitionVersion{
			Name: name, Served: true, Storage: storage, SelectableFields: []apiextensionsv1.SelectableField{{JSONPath: ".spec." + field}},
			Subresources: &apiextensionsv1.CustomResourceSubresources{Status: &apiextensionsv1.CustomResourceSubresourceStatus{}},
			Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object",
				Properties: map[string]apiextensionsv1.JSONSchemaProps{"spec": spec, "status": status}}},
		}
	}
	definition := &apiextensionsv1.CustomResourceDefinition{}
	definition.Name = "boats." + Group
	definition.Spec = apiextensionsv1.CustomResourceDefinitionSpec{
		Group: Group, Scope: apiextensionsv1.NamespaceScoped,
		Names:    apiextensionsv1.CustomResourceDefinitionNames{Plural: "boats", Singular: "boat", Kind: "Boat", ListKind: "BoatList"},
		Versions: []apiextensionsv1.CustomResourceDefinitionVersion{version("v1", "harbour", true), version("v1beta1", "port", false)},
	}
	return definition
}
