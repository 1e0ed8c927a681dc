package acquire_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/acquire"
)

// What a token is said to be comes from the key and from how the certificate was issued, and a
// floor holds against both.
func TestStrengthIsAFactAndTheFloorHolds(t *testing.T) {
	t.Parallel()
	const none = acquire.Strength("")
	for _, tt := range []struct {
		name        string
		key         acquire.Strength
		attested    bool
		floor, want acquire.Strength
		refused     bool
	}{
		{"a TPM key with an attested certificate is attested", acquire.StrengthTPM, true, none, acquire.StrengthAttested, false},
		{"a TPM key with a certificate that nobody attested is tpm", acquire.StrengthTPM, false, none, acquire.StrengthTPM, false},
		{"a software key is software, whatever its certificate says", acquire.StrengthSoftware, true, none, acquire.StrengthSoftware, false},
		{"a key of which nothing is known is none", none, true, none, acquire.StrengthNone, false},
		{"attested reaches the floor attested", acquire.StrengthTPM, true, acquire.StrengthAttested, acquire.StrengthAttested, false},
		{"attested reaches the floor tpm", acquire.StrengthTPM, true, acquire.StrengthTPM, acquire.StrengthAttested, false},
		{"tpm does not reach the floor attested", acquire.StrengthTPM, false, acquire.StrengthAttested, none, true},
		{"a software key does not reach the floor tpm", acquire.StrengthSoftware, true, acquire.StrengthTPM, none, true},
		{"a software key does not reach the floor attested", acquire.StrengthSoftware, true, acquire.StrengthAttested, none, true},
		{"a key of which nothing is known reaches no floor", none, true, acquire.StrengthSoftware, none, true},
		{"nothing reaches a floor that is not known", acquire.StrengthTPM, true, acquire.Strength("titanium"), none, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorldWith(t, tt.key, acquire.Identity{Name: "vm", ManagedIdentity: &acquire.ManagedIdentity{Bound: acquire.BoundRequire}, MinStrength: tt.floor})
			w.rotate("", "subject", tt.attested)
			token, err := w.acquirer.Token(t.Context(), acquire.Request{Identity: "vm", Resource: resource, Type: acquire.TypeBearer})
			if !tt.refused {
				if err != nil || token.Strength != tt.want {
					t.Errorf("got %q, %v; want %q", token.Strength, err, tt.want)
				}
				return
			}
			e, ok := errors.AsType[*acquire.Error](err)
			if !ok || e.Kind != acquire.KindRefused || !strings.Contains(err.Error(), "min_strength") || e.Hint == "" {
				t.Errorf("got %v, want a refusal that names min_strength", err)
			}
			if n := w.requests.Load(); n != 0 {
				t.Errorf("the credential was shown to Entra %d times", n)
			}
		})
	}
}

// Every strength against every floor. tpm-signed and software do not reach each other: an assertion
// that a listener can use for ten minutes is no substitute where a connection has to prove its key,
// and a key that a thief can read is none where nothing may be worth stealing.
func TestWhichStrengthReachesWhichFloor(t *testing.T) {
	t.Parallel()
	const unknown = acquire.Strength("titanium")
	all := []acquire.Strength{acquire.StrengthAttested, acquire.StrengthTPM, acquire.StrengthTPMSigned, acquire.StrengthSoftware, acquire.StrengthNone, unknown, ""}
	table := map[acquire.Strength]string{ // have: for each floor of all, in its order, y or n
		acquire.StrengthAttested:  "yyyyyny",
		acquire.StrengthTPM:       "nyyyyny",
		acquire.StrengthTPMSigned: "nnynyny",
		acquire.StrengthSoftware:  "nnnyyny",
		acquire.StrengthNone:      "nnnnyny",
		unknown:                   "nnnnnny",
		"":                        "nnnnnny",
	}
	// What the floors took before tpm-signed was told from none.
	before := []acquire.Strength{acquire.StrengthNone, acquire.StrengthSoftware, acquire.StrengthTPM, acquire.StrengthAttested}
	for _, have := range all {
		for i, floor := range all {
			got := acquire.Reaches(have, floor)
			if want := table[have][i] == 'y'; got != want {
				t.Errorf("%q reaches %q: got %v, want %v", have, floor, got, want)
			}
			was := have
			if was == acquire.StrengthTPMSigned {
				was = acquire.StrengthNone
			}
			at, wanted := slices.Index(before, was), slices.Index(before, floor)
			if wanted >= 0 && got != (at >= wanted) {
				t.Errorf("floor %q has become another one for %q: it takes it: %v", floor, have, got)
			}
		}
	}
}
