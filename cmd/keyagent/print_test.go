package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/client"
)

func TestHeaderOfEachTokenType(t *testing.T) {
	for tokenType, want := range map[string]string{
		"Bearer": "Authorization: Bearer eyJ0\n", wire.TypePoP: "Authorization: mtls_pop eyJ0\n",
	} {
		var out bytes.Buffer
		a := &app{streams: streams{out: &out}}
		if err := tokenWriters["header"](a, client.Token{AccessToken: wire.NewSecret("eyJ0"), TokenType: tokenType}); err != nil || out.String() != want {
			t.Errorf("got %q, %v, want %q", out.String(), err, want)
		}
	}
}

func TestStatusOfAnApplicationListsItsCredentials(t *testing.T) {
	var out bytes.Buffer
	err := printStatus(&out, wire.Status{Started: time.Unix(0, 0), Identities: []wire.IdentityStatus{{
		Name: "app", Kind: wire.KindApplication, State: "ready", ClientID: "c0ffee00-0000-4000-8000-0000000000aa",
		Credentials: []wire.CredentialStatus{
			{Name: "managed_identity", Source: "managed_identity", Bound: true, State: "unavailable", LastError: "IMDS is down"},
			{Name: "mine", Source: "certificate", Bound: false, State: "ready", Strength: "tpm"},
		},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Join(strings.Fields(out.String()), " ")
	for _, want := range []string{
		"identity app application, ready client id c0ffee00",
		"credential managed_identity managed_identity, bound, unavailable last error IMDS is down",
		"credential mine certificate, unbound, ready strength tpm",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}

func TestCapabilitiesThatAreNotKnownAreSaidSo(t *testing.T) {
	var out bytes.Buffer
	no := false
	err := printCapabilities(&out, wire.Capabilities{
		StrongestBinding: "tpm", Reason: "where the key\nis", ManagedIdentityV2: wire.Capability{Strength: "tpm"},
		ManagedIdentityV1: wire.Capability{Available: &no, Reason: "not used"}, TokenTypes: []string{"bearer", "mtls_pop"},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"strongest binding     tpm, where the key\\nis\n", "managed identity, v2  unknown, tpm\n", "managed identity, v1  no, not used\n", "token types           bearer, mtls_pop\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}

func TestClaimsThatEntraDemandsArePrinted(t *testing.T) {
	var out bytes.Buffer
	a := &app{streams: streams{err: &out}}
	problem := wire.NewProblem(wire.CodeClaimsRequired, "interaction_required")
	problem.Claims = `{"a":"\u001b"}` + "\x1b"
	if code := a.exit(&client.Error{Problem: problem, Status: problem.Status}, "token"); code != exitFailed {
		t.Errorf("exit code %d", code)
	}
	if want := `keyagent: claims: {"a":"\u001b"}\x1b` + "\n"; !strings.Contains(out.String(), want) {
		t.Errorf("no %q in %q", want, out.String())
	}
}
