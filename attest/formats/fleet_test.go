package formats_test

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/formats"
)

// An EAR about a fleet has an appraisal for each machine, as if it were alone, and says of the
// whole what is the worst.
func TestAnEARAboutAFleet(t *testing.T) {
	t.Parallel()
	m, e := machine(t)
	good := appraisal(t, m, e, nil)
	bad := appraisal(t, m, e, func(p *attest.Policy) { p.VMID = "another" })
	of := good
	of.Result, of.Nonce = nil, nil
	write := func(add func(*formats.Fleet) error) map[string]any {
		t.Helper()
		var b bytes.Buffer
		f, err := formats.NewFleet(&b, of)
		if err == nil {
			err = add(f)
		}
		if err == nil {
			err = f.End()
		}
		if err != nil {
			t.Fatal(err)
		}
		return decoded(t, b.Bytes())
	}
	submodule := func(doc map[string]any, label string) map[string]any {
		t.Helper()
		one, ok := doc["submods"].(map[string]any)[label].(map[string]any)
		if !ok {
			t.Fatalf("no %q", label)
		}
		return one
	}
	all := write(func(f *formats.Fleet) error {
		for _, err := range []error{
			f.Add("a.json", good.Result, good.Nonce, ""), f.Add("b.json", bad.Result, bad.Nonce, ""),
			f.Add("c.json", nil, nil, "no such file"), f.Add("d.json", good.Result, good.Nonce, "the same machine as a.json"),
			f.Add("\xff", nil, nil, "x"), f.Add("\xfe", nil, nil, "x"),
		} {
			if err != nil {
				return err
			}
		}
		return nil
	})
	if n := len(all["submods"].(map[string]any)); n != 6 || all["ear_status"] != "contraindicated" || all["eat_profile"] != formats.EARProfile || all["iat"] == nil || all["ear_verifier_id"] == nil {
		t.Errorf("%d submodules, %v %v", n, all["ear_status"], all["eat_profile"])
	}
	for label, want := range map[string]struct {
		status string
		facts  bool
		reason any
	}{
		"a.json": {"affirming", true, nil}, "b.json": {"contraindicated", false, nil},
		"c.json": {"contraindicated", false, "no such file"}, "d.json": {"contraindicated", false, "the same machine as a.json"},
	} {
		one := submodule(all, label)
		claims := one["ear_verifier_claims"].(map[string]any)
		if one["ear_status"] != want.status || (one["ear_attester_claims"] != nil) != want.facts || claims["keyagent_reason"] != want.reason {
			t.Errorf("%s: %v", label, one)
		}
	}
	var alone bytes.Buffer
	if err := formats.WriteResult(&alone, formats.EAR, good); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(submodule(decoded(t, alone.Bytes()), formats.Label), submodule(all, "a.json")); diff != "" {
		t.Errorf("(-alone, +of the fleet)\n%s", diff)
	}
	for want, add := range map[string]func(*formats.Fleet) error{
		"affirming":       func(f *formats.Fleet) error { return f.Add("a.json", good.Result, good.Nonce, "") },
		"contraindicated": func(*formats.Fleet) error { return nil },
	} {
		if got := write(add)["ear_status"]; got != want {
			t.Errorf("%v, want %s", got, want)
		}
	}
	if _, err := formats.NewFleet(&alone, formats.Appraisal{}); err == nil {
		t.Error("without a time")
	}
}
