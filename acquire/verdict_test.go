package acquire_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/acquire/binding"
	"github.com/keyagent/keyagent/acquire/entra"
	"github.com/keyagent/keyagent/acquire/imds"
)

// furtherOutcomes are errors that differ in more than what they allow.
func furtherOutcomes(t *testing.T) map[string]error {
	t.Helper()
	all := map[string]error{
		"deadline":                context.DeadlineExceeded,
		"canceled":                acquire.NotLoaded(context.Canceled),
		"throttled":               &entra.Error{Status: 429, RetryAfter: 5 * time.Second},
		"unavailable with time":   &entra.Error{Status: 503, RetryAfter: 7 * time.Second, Codes: []int{51000}},
		"a claims challenge":      &entra.Error{Status: 400, Code: "interaction_required", Claims: `{"a":1}`},
		"a resource by name":      &entra.Error{Status: 400, Code: "invalid_resource"},
		"codes unread":            &entra.Error{Status: 400, Code: "invalid_client", Unread: true},
		"a pause":                 acquire.NotLoaded(&binding.PausedError{RetryAfter: time.Minute}),
		"a key that is missing":   acquire.NotLoaded(noKey{}),
		"evidence":                acquire.NotLoaded(fmt.Errorf("%w: %w", binding.ErrAttestation, noEvidence{})),
		"no evidence":             acquire.NotLoaded(fmt.Errorf("%w: %w", binding.ErrAttestation, final{})),
		"somebody in IMDS' place": acquire.NotLoaded(fmt.Errorf("%w: %w", imds.ErrBadAnswer, errors.New("Server header"))),

		"list: missing keys only":     chainOf(acquire.NotLoaded(noKey{}), acquire.NotLoaded(noKey{})),
		"list: missing and throttled": chainOf(acquire.NotLoaded(noKey{}), &entra.Error{Status: 429, RetryAfter: time.Second}),
		"list: refused and passing":   chainOf(said(401, 700027), said(503)),
		"list: resource, then down":   chainOf(said(400, 500011), entra.ErrUnreachable),
		"list: unbound, then down":    chainOf(said(400, 392196), entra.ErrUnreachable),
		"list: floor, then unbound":   chainOf(acquire.NotLoaded(acquire.TooWeak("none", "tpm")), said(400, 392196)),
		"list: no mtls_pop":           chainOf(acquire.NotLoaded(acquire.ErrNoPoP), said(401, 700027)),
		"list: challenge, refused":    chainOf(&entra.Error{Status: 400, Claims: `{"a":1}`}, said(401, 700027)),
		"list: refused, challenge":    chainOf(said(401, 700027), &entra.Error{Status: 400, Claims: `{"a":1}`}),
		"list in a list":              acquire.NotLoaded(chainOf(acquire.NotLoaded(chainOf(said(503), said(401, 700027))), said(401, 700027))),
		"list, marked":                acquire.NotLoaded(chainOf(acquire.NotLoaded(noKey{}), acquire.NotLoaded(noKey{}))),
		"list, withheld":              fmt.Errorf("%w; not tried, since unbound: x", chainOf(said(401, 700027), acquire.NotLoaded(noKey{}))),
	}
	for name, code := range constants(t, "entra") {
		all[name] = said(400, code)
		all[name+", not loaded"] = acquire.NotLoaded(fmt.Errorf("first request: %w", said(401, code)))
	}
	return all
}

// Everything that an error means, in one table: testdata/verdicts.golden. go test ./acquire -run
// Verdict -update writes it.
func TestTheVerdictOnEachError(t *testing.T) {
	all := furtherOutcomes(t)
	for name, list := range outcomes() {
		for i, o := range list {
			all[fmt.Sprintf("%s %d", name, i)] = o.err
		}
	}
	var out strings.Builder
	for _, name := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintf(&out, "%s: %s\n", name, acquire.Verdict(all[name]))
	}
	const path = "testdata/verdicts.golden"
	if *update {
		if err := os.WriteFile(path, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), out.String()); diff != "" {
		t.Errorf("the verdicts differ (-want +got):\n%s", diff)
	}
}
