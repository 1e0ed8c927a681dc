package keyring

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/acquire/imds"
)

// A key that cannot do what the configuration demands of the one in use must not take its place.
func TestARotationProvesTheStrengthThatIsDemanded(t *testing.T) {
	user := imds.Selector{ClientID: "8b0c3d0e-0000-4000-8000-00000000c1d1"}
	identity := func(name string, floor acquire.Strength, bound acquire.Bound) acquire.Identity {
		return acquire.Identity{Name: name, MinStrength: floor, ManagedIdentity: &acquire.ManagedIdentity{Selector: user, Bound: bound}}
	}
	identities := []acquire.Identity{
		identity("strong", acquire.StrengthAttested, acquire.BoundRequire),
		identity("plain", "", acquire.BoundPrefer),
		identity("unbound", "", acquire.BoundNever),
		{Name: "app", MinStrength: acquire.StrengthAttested, Application: &acquire.Application{Credentials: []acquire.Credential{
			{Name: "mi", Source: acquire.SourceManagedIdentity, Selector: user, Bound: acquire.BoundRequire, Audience: "api://a"},
			{Name: "other", Source: acquire.SourceOIDC, Identity: "plain", Bound: acquire.BoundRequire, Audience: "api://a"},
			{Name: "other unbound", Source: acquire.SourceOIDC, Identity: "unbound", Bound: acquire.BoundNever, Audience: "api://a"},
			{Name: "certificate", Source: acquire.SourceCertificate, Key: "app", Bound: acquire.BoundRequire},
		}}},
	}
	got := map[string]acquire.Strength{}
	for _, proof := range proofs(identities, nil) {
		if m := proof.identity.ManagedIdentity; m.Bound != acquire.BoundRequire || m.Selector != user {
			t.Errorf("%s is proven with %+v", proof.identity.Name, m)
		}
		got[proof.identity.Name] = proof.identity.MinStrength
	}
	want := map[string]acquire.Strength{
		"strong": acquire.StrengthAttested, "plain": "", "app: mi": acquire.StrengthAttested, "app: other": acquire.StrengthAttested,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("strengths to be proven differ (-want +got):\n%s", diff)
	}
}
