package attest_test

import (
	"bytes"
	"errors"
	"math/big"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/keyagent/keyagent/attest"
	at "github.com/keyagent/keyagent/attest/internal/attesttest"
)

func TestTheZeroResultIsNotVerified(t *testing.T) {
	t.Parallel()
	var r attest.Result
	if r.Verified() || r.Err() == nil || r.Verdict() != attest.Incomplete {
		t.Errorf("verdict %q, error %v", r.Verdict(), r.Err())
	}
}

func TestMissingEvidenceIsNotVerified(t *testing.T) {
	t.Parallel()
	x := newTrial(t)
	for name, p := range map[string]attest.Policy{"default": x.policy, "zero": {}} {
		r := attest.Verify(&attest.Evidence{}, x.challenge, x.Anchors(), p, x.now)
		if r.Verified() || r.Err() == nil {
			t.Errorf("%s policy: nothing was verified", name)
		}
	}
}

// TestEachPartIsNeeded leaves one part out at a time. Nothing is then wrong, and the answer is no.
func TestEachPartIsNeeded(t *testing.T) {
	t.Parallel()
	for name, drop := range map[string]func(*attest.Evidence){
		"HCL report":      func(e *attest.Evidence) { e.HCLReport = nil },
		"VCEK chain":      func(e *attest.Evidence) { e.VCEKChain = nil },
		"key public area": func(e *attest.Evidence) { e.KeyPublic = nil },
		"certify":         func(e *attest.Evidence) { e.Certify = nil },
		"quote":           func(e *attest.Evidence) { e.Quote = nil },
		"PCR values":      func(e *attest.Evidence) { e.PCRs = nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := newTrial(t)
			x.ChangeEvidence = drop
			r := x.run(t)
			want := attest.Incomplete
			if name == "key public area" {
				want = attest.Rejected // the quote was made for this key
			}
			if r.Verdict() != want || len(r.NotProven) == 0 {
				t.Errorf("verdict %q, want %q; not proven: %v", r.Verdict(), want, r.NotProven)
			}
			var ce *attest.CheckError
			if !errors.As(r.Err(), &ce) {
				t.Errorf("error %v names no check", r.Err())
			}
		})
	}
}

func TestOptionalPartsAreOptional(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*attest.Evidence){
		"without AK certificate":       func(e *attest.Evidence) { e.AKCertificate = nil },
		"without AK public area":       func(e *attest.Evidence) { e.AKPublic = nil },
		"without repeating the nonce":  func(e *attest.Evidence) { e.Nonce, e.Audience = nil, "" },
		"with a padded AK certificate": func(e *attest.Evidence) { e.AKCertificate = append(e.AKCertificate, make([]byte, 3000)...) },
		"with the VCEK alone":          func(e *attest.Evidence) { e.VCEKChain = e.VCEKChain[:1] },
		"with bare signatures": func(e *attest.Evidence) {
			e.CertifySignature, e.QuoteSignature = e.CertifySignature[6:], e.QuoteSignature[6:]
		},
		"with the hardware report alone": func(e *attest.Evidence) { unwrap(e) },
	} {
		x := newTrial(t)
		x.ChangeEvidence = change
		if err := x.run(t).Err(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// unwrap does what the attestation service's protocol does: it takes the HCL wrapper off.
func unwrap(e *attest.Evidence) {
	report, claims, err := e.Hardware()
	if err != nil {
		return
	}
	e.HCLReport, e.SNPReport, e.RuntimeClaims = nil, report, claims
}

func TestPolicyMayRequireMore(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		check string
		drop  func(*attest.Evidence)
	}{
		"the AK certificate":         {attest.CheckAKCertificate, func(e *attest.Evidence) { e.AKCertificate = nil }},
		"AMD's revocation list":      {attest.CheckSNPRevocation, func(*attest.Evidence) {}},
		"a check that is misspelled": {"snp.lunch", func(*attest.Evidence) {}},
	} {
		x := newTrial(t)
		x.policy.Required = append(x.policy.Required, tt.check)
		x.ChangeEvidence = tt.drop
		err := x.run(t).Err()
		if err == nil || !strings.Contains(err.Error(), tt.check) {
			t.Errorf("%s: error %v, want one that names %s", name, err, tt.check)
		}
	}
}

func TestPolicyMayAllowMore(t *testing.T) {
	t.Parallel()
	digest := bytes.Repeat([]byte{5}, 32)
	own := bytes.Repeat([]byte{9}, 48)
	for name, change := range map[string]func(*trial){
		"a key under a listed policy": func(x *trial) {
			x.KeyPublic = at.Public(x.Key, at.BindingKeyAttributes, digest)
			x.policy.Key.AuthPolicies = [][]byte{digest}
		},
		"an ID key of the operator's list": func(x *trial) {
			x.IDKeyDigest = own
			x.policy.Launch.IDKeyDigests = append(x.policy.Launch.IDKeyDigests, own)
		},
		"a listed measurement under an unknown ID key": func(x *trial) {
			x.IDKeyDigest = own
			x.policy.Launch.Measurements = [][]byte{bytes.Repeat([]byte{0x4d}, 48)}
		},
		"user data that is as expected": func(x *trial) { x.policy.UserData = make([]byte, 64) },
		"a VM id in upper case":         func(x *trial) { x.policy.VMID = strings.ToUpper(at.VMID) },
		"secure boot that is on":        func(x *trial) { x.policy.RequireSecureBoot = true },
		"a list that revokes another": func(x *trial) {
			x.ChangeAnchors = func(a *attest.TrustAnchors) { a.AMD[0].CRL = x.AMD.CRL(t, big.NewInt(99), at.Epoch()) }
		},
	} {
		x := newTrial(t)
		change(x)
		if err := x.run(t).Err(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestNoChangedByteIsVerified changes one byte at a time of everything that a signature covers.
func TestNoChangedByteIsVerified(t *testing.T) {
	t.Parallel()
	x := newTrial(t)
	e := x.Evidence(t, x.challenge)
	claimsEnd := 1236 + len(x.Claims)
	parts := map[string][]byte{
		"hardware report": e.HCLReport[32:1216],
		"claims":          e.HCLReport[1236:claimsEnd],
		"padding":         e.HCLReport[claimsEnd:],
		"key public area": e.KeyPublic, "certify": e.Certify, "certify signature": e.CertifySignature,
		"AK public area": e.AKPublic, "quote": e.Quote, "quote signature": e.QuoteSignature,
		"PCR 0": e.PCRs[0], "VCEK": e.VCEKChain[0], "AK certificate": e.AKCertificate,
	}
	const stride = 61 // not a divisor of any field's size: over the parts every kind of field is hit
	for name, part := range parts {
		for i := 0; i < len(part); i += stride {
			part[i] ^= 0x10
			if attest.Verify(e, x.challenge, x.Anchors(), x.policy, x.now).Verified() {
				t.Errorf("%s: byte %d may be changed", name, i)
			}
			part[i] ^= 0x10
		}
	}
	if err := attest.Verify(e, x.challenge, x.Anchors(), x.policy, x.now).Err(); err != nil {
		t.Fatalf("unchanged: %v", err)
	}
}

func TestVerifyIsSafeForConcurrentUse(t *testing.T) {
	t.Parallel()
	x := newTrial(t)
	e, anchors := x.Evidence(t, x.challenge), x.Anchors()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if err := attest.Verify(e, x.challenge, anchors, x.policy, x.now).Err(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestTransportKeyIsCheckedAsADecryptionKey(t *testing.T) {
	t.Parallel()
	x := newTrial(t)
	ak, err := attest.ParseAK(attest.AKPublicArea(x.AK.N.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	const attributes = 0x00020432
	public := at.Public(&x.w.keys.Other.PublicKey, attributes, make([]byte, 32))
	if err := attest.VerifyTransportKey(ak, x.Certify(t, public, at.Null, nil)); err != nil {
		t.Errorf("a good one: %v", err)
	}
	tests := []struct {
		name, check string
		certified   attest.Certified
	}{
		{"a signing key", attest.CheckKeyPublic, x.Certify(t, x.KeyPublic, at.Owner, nil)},
		{"an exportable key", attest.CheckKeyPublic, x.Certify(t, at.Public(x.Key, attributes&^(1<<1), nil), at.Null, nil)},
		{"a statement about another key", attest.CheckKeyCertifyName, func() attest.Certified {
			c := x.Certify(t, at.Public(x.Key, attributes, nil), at.Null, nil)
			c.Public = public
			return c
		}()},
		{"a statement changed after signing", attest.CheckKeyCertifySignature, func() attest.Certified {
			c := x.Certify(t, public, at.Null, nil)
			c.Attest[76-32+7]++
			return c
		}()},
		{"extraData that was not asked for", attest.CheckKeyCertifyNonce, func() attest.Certified {
			c := x.Certify(t, public, at.Null, []byte("x"))
			c.ExtraData = nil
			return c
		}()},
		{"bound to other PCRs than those of the evidence", attest.CheckKeyPublic, func() attest.Certified {
			c := x.Certify(t, public, at.Null, nil)
			c.PCRs = x.PCRs
			return c
		}()},
		{"no statement", attest.CheckKeyCertifyStructure, attest.Certified{Public: public}},
	}
	for _, tt := range tests {
		var ce *attest.CheckError
		if err := attest.VerifyTransportKey(ak, tt.certified); !errors.As(err, &ce) || ce.Check != tt.check {
			t.Errorf("%s: error %v, want %s", tt.name, err, tt.check)
		}
	}
}

func TestOnlyARestrictedSigningKeyIsAnAttestationKey(t *testing.T) {
	t.Parallel()
	w := sharedWorld(t)
	good := attest.AKPublicArea(w.keys.AK.N.Bytes())
	for name, change := range map[string]func([]byte){
		"not restricted":     func(b []byte) { b[5] &^= 0x01 },
		"also decrypts":      func(b []byte) { b[5] |= 0x02 },
		"not fixed":          func(b []byte) { b[7] &^= 0x02 },
		"signs with SHA-1":   func(b []byte) { b[15] = 0x04 },
		"of another type":    func(b []byte) { b[1] = 0x23 },
		"with an odd scheme": func(b []byte) { b[13] = 0x16 },
	} {
		b := bytes.Clone(good)
		change(b)
		if _, err := attest.ParseAK(b); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := attest.ParseAK(at.Public(&w.keys.Key.PublicKey, at.BindingKeyAttributes, nil)); err == nil {
		t.Error("a binding key passes as an attestation key")
	}
}

func TestDefaultsAreUsable(t *testing.T) {
	t.Parallel()
	a := attest.DefaultTrustAnchors()
	if len(a.AMD) != 3 || len(a.VTPM) != 2 || len(a.VTPMIntermediates) != 1 {
		t.Errorf("%d AMD roots, %d vTPM roots, %d intermediates", len(a.AMD), len(a.VTPM), len(a.VTPMIntermediates))
	}
	for _, d := range attest.AzureIDKeyDigests() {
		if len(d) != 48 {
			t.Errorf("ID key digest of %d bytes", len(d))
		}
	}
	for _, name := range slices.Concat(attest.Floor(), attest.DefaultPolicy().Required) {
		if !slices.Contains(attest.CheckNames(), name) {
			t.Errorf("%q is required, but is no check", name)
		}
	}
}
