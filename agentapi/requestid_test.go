package agentapi_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/agentapi/wire"
)

func TestEachAnswerHasAnIDThatItsRecordHasToo(t *testing.T) {
	a := start(t, config(working, rulesFor(os.Geteuid())))
	seen := map[string]bool{}
	for _, target := range []string{nativeTarget, nativeTarget, nativeTarget, imdsTarget, wire.PathStatus, "/v1/token?resource=x", "/no-such-path"} {
		got := a.get(t, target, "Metadata", "true")
		id := got.header.Get("x-ms-request-id")
		if seen[id] {
			t.Errorf("%s: the id of another request", target)
		}
		seen[id] = true
		if record := a.audit.lastRecord(t); record["request_id"] != id || record["client_request_id"] != nil {
			t.Errorf("%s: the answer has id %s, the record %v", target, id, record)
		}
		if got.header.Get("Content-Type") == wire.ContentTypeProblem && got.problem(t).RequestID != id {
			t.Errorf("%s: the problem has another id than the header, %s", target, id)
		}
	}
}

func TestTheCallersOwnIDIsOnRecordIfItIsOne(t *testing.T) {
	a := start(t, config(working, rulesFor(os.Geteuid())))
	for _, tt := range []struct {
		name, given string
		kept        bool
	}{
		{"a UUID", "8b0c3d0e-0000-4000-8000-00000000c1d1", true},
		{"a UUID of .NET", "{8B0C3D0E-0000-4000-8000-00000000C1D1}", true},
		{"as long as one may be", strings.Repeat("a", 64), true},
		{"longer", strings.Repeat("a", 65), false},
		{"with what ends a JSON text", `a","decision":"issued`, false},
		{"with a space", "a b", false},
		{"not ASCII", "é", false},
		{"a token", tokenText + "/+", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a.get(t, nativeTarget, "x-ms-client-request-id", tt.given)
			record := a.audit.lastRecord(t)
			if kept := record["client_request_id"] == tt.given; kept != tt.kept || !kept && record["client_request_id"] != nil {
				t.Errorf("the record has %v", record)
			}
		})
	}
}

func TestALineOfTheLogHasTheIDOfItsRequest(t *testing.T) {
	failing := func(context.Context, acquire.Request) (acquire.Token, error) {
		return acquire.Token{}, errors.New("a fault")
	}
	a := start(t, config(failing, rulesFor(os.Geteuid())))
	got := a.get(t, nativeTarget)
	if id := got.header.Get("x-ms-request-id"); !strings.Contains(a.log.String(), "request_id="+id) {
		t.Errorf("no %s in %s", id, a.log)
	}
}
