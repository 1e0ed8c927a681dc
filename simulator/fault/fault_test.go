package fault_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keyagent/keyagent/simulator/fault"
)

func TestTakeCountsDownAndKeepsTheOrder(t *testing.T) {
	s := fault.NewSet("a", "b")
	for _, f := range []fault.Fault{
		{Operation: "a", Kind: fault.Status, Status: 500, Count: 2},
		{Operation: "b", Kind: fault.Reset},
		{Operation: "a", Kind: fault.Body, Body: "x", Count: 1},
	} {
		if err := s.Add(f); err != nil {
			t.Fatal(err)
		}
	}
	var kinds []fault.Kind
	for range 4 {
		f, _ := s.Take("a")
		kinds = append(kinds, f.Kind)
	}
	if diff := cmp.Diff([]fault.Kind{fault.Status, fault.Status, fault.Body, ""}, kinds); diff != "" {
		t.Errorf("faults of operation a (-want +got):\n%s", diff)
	}
	for range 3 {
		if _, ok := s.Take("b"); !ok {
			t.Error("a fault without count must stay until cleared")
		}
	}
	s.Clear()
	if _, ok := s.Take("b"); ok || len(s.List()) != 0 {
		t.Error("a cleared fault still acts")
	}
}

func TestAddRefuses(t *testing.T) {
	for name, f := range map[string]fault.Fault{
		"an operation that does not exist": {Operation: "imds", Kind: fault.Reset},
		"a kind that does not exist":       {Operation: "a", Kind: "explode"},
		"a status that is none":            {Operation: "a", Kind: fault.Status, Status: 99},
		"a delay of nothing":               {Operation: "a", Kind: fault.Delay},
		"a delay longer than the limit":    {Operation: "a", Kind: fault.Delay, Delay: fault.Duration(time.Hour)},
		"a negative count":                 {Operation: "a", Kind: fault.Reset, Count: -1},
		"a status on a reset":              {Operation: "a", Kind: fault.Reset, Status: 500},
	} {
		t.Run(name, func(t *testing.T) {
			if err := fault.NewSet("a").Add(f); err == nil {
				t.Error("accepted")
			}
		})
	}
}

func TestParseRoundTrip(t *testing.T) {
	want := fault.Fault{Operation: "a", Kind: fault.Delay, Delay: fault.Duration(1500 * time.Millisecond), Count: 3}
	data, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := fault.Parse(data)
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("parsed %s: %v\n%s", data, err, diff)
	}
	for _, bad := range []string{`{"operation":"a","kynd":"reset"}`, `{"operation":"a"} {"operation":"b"}`, `{"delay":5}`, `[]`, ``} {
		if _, err := fault.Parse([]byte(bad)); err == nil {
			t.Errorf("accepted %s", bad)
		}
	}
}
