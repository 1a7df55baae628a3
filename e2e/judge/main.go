// Command judge fills objects of every kind that a v1.37 API server serves and prints each as Go encodes it, one JSON
// document a line: the type, its JSON and its protobuf. Our codecs are tested against what it prints:
//
//	go run . | zstd -19 > ../../src/kinds/tests/vectors.zst
//
// With the word translate it makes protobuf of JSON and JSON of protobuf, line by line (translate.go), for forms.py.
package main

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"reflect"
	"sort"
	"strings"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes/scheme"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
)

type line struct {
	// Type is the Go package path and name.
	Type    string          `json:"type"`
	Group   string          `json:"group"`
	Version string          `json:"version"`
	Kind    string          `json:"kind"`
	JSON    json.RawMessage `json:"json"`
	// Protobuf is hex, empty for types without a protobuf form.
	Protobuf string `json:"protobuf,omitempty"`
	// Envelope is the whole protobuf body.
	Envelope string `json:"envelope,omitempty"`
}

// filler fills every field it can reach; variant picks between alternatives. With zeros, what is pointed to and what is in
// lists and maps is there but zero.
type filler struct {
	variant int
	zeros   bool
	count   int64
	depth   int
}

var typeMeta = reflect.TypeOf(metav1.TypeMeta{})

func (f *filler) fill(v reflect.Value) {
	f.count = f.count%89 + 1 // small numbers, so that the output compresses
	f.depth++
	defer func() { f.depth-- }()
	switch v.Addr().Interface().(type) {
	case *resource.Quantity, *intstr.IntOrString:
		if f.zeros {
			return
		}
	}
	switch special := v.Addr().Interface().(type) {
	case *metav1.Time:
		*special = metav1.NewTime(time.Unix(1700000000+f.count, 0).UTC())
		return
	case *metav1.MicroTime:
		*special = metav1.NewMicroTime(time.Unix(1700000000+f.count, 123456000).UTC())
		return
	case *metav1.Duration:
		special.Duration = time.Duration(f.count) * time.Second
		return
	case *resource.Quantity:
		texts := []string{"1500m", "2Gi", "3", "250M", "1e3", "100n"}
		*special = resource.MustParse(texts[(f.count+int64(f.variant))%int64(len(texts))])
		return
	case *intstr.IntOrString:
		if (f.count+int64(f.variant))%2 == 0 {
			*special = intstr.FromInt32(int32(f.count))
		} else {
			*special = intstr.FromString(fmt.Sprintf("%d%%", f.count))
		}
		return
	case *runtime.RawExtension:
		special.Raw = []byte(fmt.Sprintf(`{"apiVersion":"example.com/v1","kind":"Raw","n":%d}`, f.count))
		return
	case *metav1.FieldsV1:
		*special = *metav1.NewFieldsV1(fmt.Sprintf(`{"f:n%d":{}}`, f.count))
		return
	case *apiextensionsv1.JSON:
		special.Raw = []byte(fmt.Sprintf(`{"n":%d}`, f.count))
		return
	case *apiextensionsv1.JSONSchemaPropsOrArray:
		if f.variant == 0 {
			special.Schema = &apiextensionsv1.JSONSchemaProps{ID: "a"}
		} else {
			special.JSONSchemas = []apiextensionsv1.JSONSchemaProps{{ID: "a"}, {ID: "b"}}
		}
		return
	case *apiextensionsv1.JSONSchemaPropsOrBool:
		special.Allows = true
		if f.variant == 0 {
			special.Schema = &apiextensionsv1.JSONSchemaProps{ID: "a"}
		}
		return
	case *apiextensionsv1.JSONSchemaPropsOrStringArray:
		if f.variant == 0 {
			special.Schema = &apiextensionsv1.JSONSchemaProps{ID: "a"}
		} else {
			special.Property = []string{"a", "b"}
		}
		return
	}
	f.fillKind(v)
}

func (f *filler) fillKind(v reflect.Value) {
	switch v.Kind() {
	case reflect.Bool, reflect.Int32, reflect.Int64, reflect.Int, reflect.Float64, reflect.String:
		if f.zeros {
			return
		}
	}
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(f.variant == 0)
	case reflect.Int32, reflect.Int64, reflect.Int:
		n := f.count
		if f.variant == 1 {
			n = -n
		}
		v.SetInt(n)
	case reflect.Float64:
		v.SetFloat(float64(f.count) + 0.5*float64(f.variant))
	case reflect.String:
		v.SetString(fmt.Sprintf("s%d", f.count))
	case reflect.Pointer:
		if f.tooDeep(v.Type().Elem()) {
			return
		}
		v.Set(reflect.New(v.Type().Elem()))
		f.fill(v.Elem())
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			if f.zeros {
				return
			}
			v.SetBytes([]byte(fmt.Sprintf("bytes %d", f.count)))
			return
		}
		if f.tooDeep(v.Type().Elem()) {
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), 1+f.variant, 1+f.variant))
		for i := range v.Len() {
			if v.Index(i).Kind() == reflect.Interface {
				v.Index(i).Set(reflect.ValueOf("cell"))
				continue
			}
			f.fill(v.Index(i))
		}
	case reflect.Map:
		if f.tooDeep(v.Type().Elem()) {
			return
		}
		v.Set(reflect.MakeMap(v.Type()))
		for i := range 1 + f.variant {
			key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			key.SetString(fmt.Sprintf("k%d", 9-i))
			f.fill(value)
			v.SetMapIndex(key, value)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			field := v.Type().Field(i)
			if field.IsExported() && field.Type != typeMeta {
				f.fill(v.Field(i))
			}
		}
	case reflect.Interface:
	default:
		log.Fatalf("a %s", v.Type())
	}
}

// tooDeep ends recursion through types that contain themselves.
func (f *filler) tooDeep(t reflect.Type) bool {
	return t == reflect.TypeOf(apiextensionsv1.JSONSchemaProps{}) && f.depth > 12
}

type marshaler interface{ Marshal() ([]byte, error) }

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func main() {
	check(apiextensionsv1.AddToScheme(scheme.Scheme))
	check(apiregistrationv1.AddToScheme(scheme.Scheme))
	check(metav1.AddMetaToScheme(scheme.Scheme))
	if len(os.Args) == 2 && os.Args[1] == "translate" {
		translate()
		return
	}
	types := scheme.Scheme.AllKnownTypes()
	var names []string
	for gvk := range types {
		served := gvk.Version == "v1" || (gvk.Group == "autoscaling" && gvk.Version == "v2")
		if served && gvk.Group != "imagepolicy.k8s.io" {
			names = append(names, gvk.Group+" "+gvk.Version+" "+gvk.Kind)
		}
	}
	sort.Strings(names)
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	seen := map[reflect.Type]bool{}
	for _, name := range names {
		parts := strings.Split(name, " ")
		gvk := metav1.GroupVersionKind{Group: parts[0], Version: parts[1], Kind: parts[2]}
		for known, t := range types {
			if known.Group != gvk.Group || known.Version != gvk.Version || known.Kind != gvk.Kind || seen[t] {
				continue
			}
			seen[t] = true
			for variant := range 4 {
				print(out, t, gvk, variant)
			}
		}
	}
}

func print(out *bufio.Writer, t reflect.Type, gvk metav1.GroupVersionKind, variant int) {
	value := reflect.New(t)
	// The third variant is the zero value, the fourth is made of zero values.
	if variant != 2 {
		(&filler{variant: variant % 2, zeros: variant == 3}).fill(value.Elem())
	}
	object, ok := value.Interface().(runtime.Object)
	if !ok {
		return
	}
	l := line{Type: t.PkgPath() + "." + t.Name(), Group: gvk.Group, Version: gvk.Version, Kind: gvk.Kind}
	var err error
	if m, ok := object.(marshaler); ok {
		bytes, err := m.Marshal()
		check(err)
		l.Protobuf = hex.EncodeToString(bytes)
		apiVersion := gvk.Version
		if gvk.Group != "" {
			apiVersion = gvk.Group + "/" + gvk.Version
		}
		unknown := runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: apiVersion, Kind: gvk.Kind}, Raw: bytes}
		envelope, err := unknown.Marshal()
		check(err)
		if variant == 2 {
			l.Envelope = hex.EncodeToString(append([]byte("k8s\x00"), envelope...))
		}
	}
	object.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind(gvk))
	l.JSON, err = json.Marshal(object)
	check(err)
	text, err := json.Marshal(l)
	check(err)
	_, err = out.Write(append(text, '\n'))
	check(err)
}
