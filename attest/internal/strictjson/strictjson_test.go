package strictjson_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/attest/internal/strictjson"
)

type inner struct {
	Value string `json:"value"`
}

type embedded struct {
	Below string `json:"below"`
}

type document struct {
	Name  string         `json:"name"`
	Count int            `json:"count"`
	Inner *inner         `json:"inner"`
	List  []inner        `json:"list"`
	Map   map[string]int `json:"map"`
	embedded
}

func TestUnmarshal(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, text   string
		strict, open bool // accepted by Unmarshal, by UnmarshalOpen
	}{
		{"a full document", `{"name":"n","count":1,"inner":{"value":"v"},"list":[{"value":"a"},{"value":"b"}],"map":{"x":1,"y":2}}`, true, true},
		{"space around it", " {\n} \t", true, true},
		{"an unknown member", `{"other":1}`, false, true},
		{"an unknown member in a list", `{"list":[{"other":1}]}`, false, true},
		{"an unknown object, whatever is in it", `{"other":{"a":[1,null,{"b":true}]}}`, false, true},
		{"a member twice", `{"name":"a","name":"b"}`, false, false},
		{"a member twice deep inside", `{"inner":{"value":"a","value":"a"}}`, false, false},
		{"a member twice inside what is unknown", `{"other":{"a":1,"a":2}}`, false, false},
		{"a map key twice", `{"map":{"x":1,"x":1}}`, false, false},
		{"another case", `{"NAME":"a"}`, false, false},
		{"another case, by folding", "{\"\u017f\":1}", false, true}, // long s folds to s
		{"another case deep inside", `{"inner":{"Value":"a"}}`, false, false},
		{"a member of an embedded struct", `{"below":"b","name":"n"}`, true, true},
		{"a member of an embedded struct twice", `{"below":"b","below":"b"}`, false, false},
		{"another case in an embedded struct", `{"Below":"b"}`, false, false},
		{"null in an embedded struct", `{"below":null}`, false, false},
		{"an embedded struct by its name", `{"embedded":{"below":"b"}}`, false, true},
		{"null for a string", `{"name":null}`, false, false},
		{"null for an object", `{"inner":null}`, false, false},
		{"null for the document", `null`, false, false},
		{"bytes after it", `{} {}`, false, false},
		{"half of it", `{"name":"a"`, false, false},
		{"nothing", ``, false, false},
		{"a broken character", "{\"name\":\"\xc3\"}", false, false},
		{"half a surrogate", `{"name":"\udc00"}`, false, false},
		{"the wrong type", `{"name":1}`, false, false},
		{"a fraction for a whole number", `{"count":1.5}`, false, false},
		{"nested without end", strings.Repeat("[", 1000) + strings.Repeat("]", 1000), false, false},
		{"an unknown member nested without end", `{"x":` + strings.Repeat("[", 1000) + strings.Repeat("]", 1000) + `}`, false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var d document
			if err := strictjson.Unmarshal([]byte(tt.text), &d); (err == nil) != tt.strict {
				t.Errorf("Unmarshal: %v", err)
			}
			if err := strictjson.UnmarshalOpen([]byte(tt.text), &d); (err == nil) != tt.open {
				t.Errorf("UnmarshalOpen: %v", err)
			}
		})
	}
}

func TestUnmarshalAnswer(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		`{"name":"n","other":1,"other":null}`:                                                true,
		`{"name":"n","other":{"a":1,"a":2}}`:                                                 true,
		`{"other":` + strings.Repeat("[", 1000) + strings.Repeat("]", 1000) + `,"name":"n"}`: true,
		`{"name":"n","other":}`:                                                              false,
		`{"name":"n","name":"n"}`:                                                            false,
		`{"name":"n","NAME":"m"}`:                                                            false,
		`{"name":null}`:                                                                      false,
		`{"name":"n","inner":{"value":"a","x":1,"x":2}}`:                                     true,
		`{"name":"n","inner":{"value":"a","value":"b"}}`:                                     false,
	} {
		var d document
		if err := strictjson.UnmarshalAnswer([]byte(text), &d); (err == nil) != want || err == nil && d.Name != "n" {
			t.Errorf("%.60s: %+v, %v", text, d, err)
		}
	}
}

// FuzzUnmarshal: what is accepted means to encoding/json what it means here, and is accepted again
// when written anew.
func FuzzUnmarshal(f *testing.F) {
	f.Add([]byte(`{"name":"n","count":1,"inner":{"value":"v"},"list":[{"value":"a"}],"map":{"x":1}}`))
	f.Add([]byte(`{"name":"\u0061"}`))
	f.Add([]byte(`{"map":{"a":1,"a":2}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var d document
		if strictjson.Unmarshal(data, &d) != nil {
			return
		}
		fields := map[string]any{"name": d.Name, "count": d.Count}
		if d.Inner != nil {
			fields["inner"] = d.Inner
		}
		if d.List != nil {
			fields["list"] = d.List
		}
		if d.Map != nil {
			fields["map"] = d.Map
		}
		again, err := json.Marshal(fields)
		if err != nil {
			t.Fatal(err)
		}
		var second document
		if err := strictjson.Unmarshal(again, &second); err != nil {
			t.Fatalf("its own encoding is refused: %v\n%s", err, again)
		}
		third, err := json.Marshal(second)
		if err != nil {
			t.Fatal(err)
		}
		if first, err := json.Marshal(d); err != nil || string(first) != string(third) {
			t.Errorf("%s became %s (%v)", first, third, err)
		}
	})
}

// A string may be of escapes alone, of quotes too, and as long as a whole bundle.
func TestStringsOfEscapes(t *testing.T) {
	for _, escape := range []string{`\n`, `\"`, `\\`, `\"\\`, `\\\"`, `a\"`, `\u0022`} {
		text := strings.Repeat(escape, 1<<19/len(escape))
		var got struct {
			A string `json:"a"`
		}
		if err := strictjson.Unmarshal([]byte(`{"a":"`+text+`"}`), &got); err != nil || len(got.A) == 0 || len(got.A) > len(text) {
			t.Errorf("%s as a value: %d bytes, %v", escape, len(got.A), err)
		}
		if err := strictjson.Unmarshal([]byte(`{"`+text+`":1}`), &got); err == nil {
			t.Errorf("%s as an unknown name is taken", escape)
		}
	}
}
