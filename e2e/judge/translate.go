package main

import (
	"bufio"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"
)

// asked is one line of standard input: JSON to be made protobuf, or protobuf to be made JSON.
type asked struct {
	// JSON is an object with apiVersion and kind.
	JSON json.RawMessage `json:"json,omitempty"`
	// Protobuf is a body in base64, Frames those of a watch.
	Protobuf string `json:"protobuf,omitempty"`
	Frames   string `json:"frames,omitempty"`
}

// told is the line of standard output for it.
type told struct {
	JSON     json.RawMessage `json:"json,omitempty"`
	Protobuf string          `json:"protobuf,omitempty"`
	Error    string          `json:"error,omitempty"`
}

type event struct {
	Type   string          `json:"type"`
	Object json.RawMessage `json:"object"`
}

var magic = []byte("k8s\x00")

// translate answers each line of standard input with one of standard output, as the Go types have it.
func translate() {
	in, out := bufio.NewReaderSize(os.Stdin, 1<<20), bufio.NewWriter(os.Stdout)
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return
		}
		var a asked
		var t told
		if err := json.Unmarshal(line, &a); err != nil {
			t.Error = err.Error()
		} else if err := answer(a, &t); err != nil {
			t = told{Error: err.Error()}
		}
		text, err := json.Marshal(t)
		check(err)
		_, err = out.Write(append(text, '\n'))
		check(err)
		check(out.Flush())
	}
}

func answer(a asked, t *told) error {
	switch {
	case a.JSON != nil:
		bytes, err := encoded(a.JSON)
		t.Protobuf = base64.StdEncoding.EncodeToString(bytes)
		return err
	case a.Protobuf != "":
		bytes, err := base64.StdEncoding.DecodeString(a.Protobuf)
		if err != nil {
			return err
		}
		t.JSON, err = decoded(bytes)
		return err
	}
	bytes, err := base64.StdEncoding.DecodeString(a.Frames)
	if err != nil {
		return err
	}
	events := []event{}
	for len(bytes) >= 4 {
		length := int(binary.BigEndian.Uint32(bytes))
		if len(bytes) < 4+length {
			return errors.New("a frame is cut")
		}
		var e metav1.WatchEvent
		if err := e.Unmarshal(bytes[4 : 4+length]); err != nil {
			return err
		}
		object, err := decoded(e.Object.Raw)
		if err != nil {
			return err
		}
		events = append(events, event{e.Type, object})
		bytes = bytes[4+length:]
	}
	t.JSON, err = json.Marshal(events)
	return err
}

func encoded(text []byte) ([]byte, error) {
	var meta metav1.TypeMeta
	if err := json.Unmarshal(text, &meta); err != nil {
		return nil, err
	}
	gvk := schema.FromAPIVersionAndKind(meta.APIVersion, meta.Kind)
	object, err := scheme.Scheme.New(gvk)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, object); err != nil {
		return nil, err
	}
	object.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	m, ok := object.(marshaler)
	if !ok {
		return nil, fmt.Errorf("no protobuf for %T", object)
	}
	raw, err := m.Marshal()
	if err != nil {
		return nil, err
	}
	unknown := runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: meta.APIVersion, Kind: meta.Kind}, Raw: raw}
	envelope, err := unknown.Marshal()
	return append(append([]byte{}, magic...), envelope...), err
}

func decoded(bytes []byte) ([]byte, error) {
	if len(bytes) < 4 || string(bytes[:4]) != string(magic) {
		return nil, errors.New("no protobuf")
	}
	var unknown runtime.Unknown
	if err := unknown.Unmarshal(bytes[4:]); err != nil {
		return nil, err
	}
	gvk := schema.FromAPIVersionAndKind(unknown.APIVersion, unknown.Kind)
	object, err := scheme.Scheme.New(gvk)
	if err != nil {
		return nil, err
	}
	m, ok := object.(interface{ Unmarshal([]byte) error })
	if !ok {
		return nil, fmt.Errorf("no protobuf for %T", object)
	}
	if err := m.Unmarshal(unknown.Raw); err != nil {
		return nil, err
	}
	object.GetObjectKind().SetGroupVersionKind(gvk)
	return json.Marshal(object)
}
