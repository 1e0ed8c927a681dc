package attest_test

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"math/big"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyagent/keyagent/attest"
	at "github.com/keyagent/keyagent/attest/internal/attesttest"
)

// world is what is slow to make; tests only read it.
type world struct {
	amd   *at.AMD
	intel *at.Intel
	ca    *at.CA
	keys  at.Keys
}

var (
	worldOnce sync.Once
	theWorld  world
)

func sharedWorld(t testing.TB) world {
	t.Helper()
	worldOnce.Do(func() { theWorld = world{at.NewAMD(t), at.NewIntel(t), at.NewCA(t), at.NewKeys(t)} })
	return theWorld
}

// trial is one judgement to be made; a forgery changes one thing of it.
type trial struct {
	*at.Machine
	w         world
	challenge attest.Challenge
	key       crypto.PublicKey
	policy    attest.Policy
	now       time.Time
}

func newTrial(t testing.TB) *trial {
	t.Helper()
	w := sharedWorld(t)
	return &trial{
		Machine:   at.NewMachine(t, w.amd, w.ca, w.keys),
		w:         w,
		challenge: attest.Challenge{Nonce: bytes.Repeat([]byte{7}, 32), Audience: "https://verifier.example"},
		policy:    attest.DefaultPolicy(),
		now:       at.Epoch(),
	}
}

func (x *trial) run(t testing.TB) *attest.Result {
	t.Helper()
	e := x.Evidence(t, x.challenge)
	if x.key == nil {
		return attest.Verify(e, x.challenge, x.Anchors(), x.policy, x.now)
	}
	return attest.VerifyForKey(e, x.challenge, x.key, x.Anchors(), x.policy, x.now)
}

// forgery is one way to fool a verifier.
type forgery struct {
	name  string
	forge func(t *testing.T, x *trial)
	also  []string // checks that fail besides the one that the forgery is listed under
}

func TestGoodEvidenceIsVerified(t *testing.T) {
	t.Parallel()
	x := newTrial(t)
	x.key = &x.w.keys.Key.PublicKey
	r := x.run(t)
	if err := r.Err(); err != nil {
		t.Fatal(err)
	}
	if len(r.NotProven) != 0 {
		t.Errorf("not proven: %+v", r.NotProven)
	}
	if key, ok := r.PublicKey.(*rsa.PublicKey); !ok || !key.Equal(x.key) {
		t.Error("result names another key")
	}
	if !bytes.Equal(r.KeyName, at.Name(x.KeyPublic)) || r.VMID != at.VMID || r.Product != "Milan" {
		t.Errorf("result: key %x, VM %q, product %q", r.KeyName, r.VMID, r.Product)
	}
}

// TestEveryCheckRefuses is the heart of the suite: a check without a forgery that it alone stops
// fails it.
func TestEveryCheckRefuses(t *testing.T) {
	t.Parallel()
	table := forgeries()
	for _, check := range attest.CheckNames() {
		if len(table[check]) == 0 {
			t.Errorf("no forgery shows that %s refuses anything", check)
		}
	}
	for check, list := range table {
		if !slices.Contains(attest.CheckNames(), check) {
			t.Errorf("forgeries for %q, which is no check", check)
		}
		for _, f := range list {
			t.Run(check+"/"+f.name, func(t *testing.T) {
				t.Parallel()
				f.try(t, check)
			})
		}
	}
}

func (f forgery) try(t *testing.T, check string) {
	x := newTrial(t)
	f.forge(t, x)
	r := x.run(t)
	if r.Verified() {
		t.Fatal("verified")
	}
	var checkErr *attest.CheckError
	if !errors.As(r.Err(), &checkErr) {
		t.Fatalf("error has no CheckError in it: %v", r.Err())
	}
	var failed []string
	for _, c := range r.Checks {
		if c.Status == attest.Fail {
			failed = append(failed, c.Name)
		}
		if c.Status != attest.Pass && c.Reason == "" {
			t.Errorf("%s is %q without a reason", c.Name, c.Status)
		}
	}
	want := append([]string{check}, f.also...)
	slices.Sort(want)
	slices.Sort(failed)
	if !slices.Equal(failed, want) {
		t.Errorf("failed: %v, want %v\n%v", failed, want, r.Err())
	}
}

func forgeries() map[string][]forgery {
	all := map[string][]forgery{}
	for _, part := range []map[string][]forgery{bundleForgeries(), hclForgeries(), snpForgeries(), productForgeries(), tdxForgeries(), akForgeries(), keyForgeries(), quoteForgeries(), policyForgeries(), bootForgeries()} {
		for check, list := range part {
			all[check] = append(all[check], list...)
		}
	}
	return all
}

func bundleForgeries() map[string][]forgery {
	return map[string][]forgery{
		attest.CheckBundleFormat: {
			{name: "unwrapped reports of two platforms", also: []string{attest.CheckHCLBinding, attest.CheckTDXStructure, attest.CheckSNPStructure}, forge: func(_ *testing.T, x *trial) {
				x.ChangeEvidence = func(e *attest.Evidence) {
					e.SNPReport, e.RuntimeClaims, e.HCLReport, e.TDQuote = e.HCLReport[32:1216], x.Claims, nil, []byte{4, 0}
				}
			}},
			{name: "claims given twice", forge: func(_ *testing.T, x *trial) {
				x.ChangeEvidence = func(e *attest.Evidence) { e.RuntimeClaims = x.Claims }
			}},
		},
		attest.CheckBundleNonce: {
			{name: "another nonce is repeated", forge: func(_ *testing.T, x *trial) {
				x.ChangeEvidence = func(e *attest.Evidence) { e.Nonce = []byte("another nonce of 32 bytes length") }
			}},
			{name: "another audience is repeated", forge: func(_ *testing.T, x *trial) {
				x.ChangeEvidence = func(e *attest.Evidence) { e.Audience = "https://other.example" }
			}},
			{name: "the verifier's own nonce is too short", also: []string{attest.CheckKeyCertifyNonce, attest.CheckQuoteNonce},
				forge: func(_ *testing.T, x *trial) { x.challenge.Nonce = []byte("short") }},
		},
		attest.CheckPolicyTEE: {
			{name: "another TEE than the policy names", forge: func(_ *testing.T, x *trial) { x.policy.TEE = []attest.Kind{attest.KindTDX} }},
			{name: "no TEE where the policy names one", forge: func(_ *testing.T, x *trial) {
				x.policy.TEE = []attest.Kind{attest.KindSNP}
				x.ChangeEvidence = func(e *attest.Evidence) { e.HCLReport, e.VCEKChain = nil, nil }
			}},
		},
		attest.CheckPolicySecureBoot: {
			{name: "secure boot is off", forge: func(_ *testing.T, x *trial) {
				x.policy.RequireSecureBoot = true
				x.Claims = bytes.Replace(x.Claims, []byte(`"secure-boot":true`), []byte(`"secure-boot":false`), 1)
			}},
			{name: "secure boot is not mentioned", forge: func(_ *testing.T, x *trial) {
				x.policy.RequireSecureBoot = true
				x.Claims = bytes.Replace(x.Claims, []byte(`"secure-boot"`), []byte(`"other"`), 1)
			}},
		},
		attest.CheckPolicyVMID: {
			{name: "another VM", forge: func(_ *testing.T, x *trial) { x.policy.VMID = "00000000-0000-0000-0000-000000000001" }},
		},
	}
}

func hclForgeries() map[string][]forgery {
	patch := func(at int, value uint32) func(*testing.T, *trial) {
		return func(_ *testing.T, x *trial) {
			x.ChangeEvidence = func(e *attest.Evidence) { binary.LittleEndian.PutUint32(e.HCLReport[at:], value) }
		}
	}
	claims := func(from, to string) func(*testing.T, *trial) {
		return func(t *testing.T, x *trial) {
			if !bytes.Contains(x.Claims, []byte(from)) {
				t.Fatalf("claims have no %q", from)
			}
			x.Claims = bytes.Replace(x.Claims, []byte(from), []byte(to), 1)
		}
	}
	return map[string][]forgery{
		attest.CheckHCLStructure: {
			{name: "no signature HCLA", forge: patch(0, 0)},
			{name: "version 3", forge: patch(4, 3)},
			{name: "request type key release", forge: patch(12, 1)},
			{name: "an error status", forge: patch(16, 1)},
			{name: "reserved bytes used", forge: patch(28, 1)},
			{name: "report size beyond the buffer", forge: patch(8, 0xFFFFFFFF)},
			{name: "claims size that wraps around", forge: patch(1232, 0xFFFFFFFF)},
			{name: "data size that does not fit the claims", forge: patch(1216, 20)},
			{name: "unknown request data version", forge: patch(1220, 2)},
			{name: "report type VBS", forge: patch(1224, 1)},
			{name: "SNP report that is called TDX", forge: patch(1224, 4)},
			{name: "unknown hash type", forge: patch(1228, 9)},
			{name: "bytes after the claims", forge: patch(2596, 1)},
		},
		attest.CheckHCLBinding: {
			{name: "claims changed after the report was made", forge: func(_ *testing.T, x *trial) {
				x.ChangeEvidence = func(e *attest.Evidence) {
					i := bytes.Index(e.HCLReport, []byte(at.VMID))
					e.HCLReport[i] ^= 1
				}
			}},
			{name: "report_data longer than the hash", forge: func(_ *testing.T, x *trial) {
				x.ChangeReport = func(raw []byte) { raw[0x50+63] = 1 }
			}},
			{name: "a hash type that would compare other bytes", forge: patch(1228, 2)},
			{name: "claims of another report given singly", forge: func(_ *testing.T, x *trial) {
				x.ChangeEvidence = func(e *attest.Evidence) {
					e.SNPReport = e.HCLReport[32:1216]
					e.RuntimeClaims = append(bytes.Clone(x.Claims), '\n')
					e.HCLReport = nil
				}
			}},
		},
		attest.CheckHCLClaims: {
			{name: "two attestation keys", forge: claims(`{"keys":[`, `{"keys":[{"kid":"HCLAkPub","kty":"RSA","e":"AQAB","n":"`+strings.Repeat("_", 341)+`w"},`)},
			{name: "no attestation key", forge: claims(`"HCLAkPub"`, `"HCLEkPub"`)},
			{name: "a member twice", forge: claims(`"vm-configuration"`, `"keys":[],"vm-configuration"`)},
			{name: "a member in another case", forge: claims(`"vm-configuration"`, `"Keys":[],"vm-configuration"`)},
			{name: "an elliptic curve key", forge: claims(`"kty":"RSA"`, `"kty":"EC"`)},
			{name: "exponent 1", forge: claims(`"AQAB"`, `"AQ"`)},
			{name: "bytes after the document", forge: func(_ *testing.T, x *trial) { x.Claims = append(x.Claims, '{') }},
			{name: "no configuration", forge: claims(`"vm-configuration"`, `"vm-other"`)},
			{name: "user-data that is not 64 bytes", forge: claims(`"user-data":"00`, `"user-data":"`)},
			{name: "a modulus of zeros", forge: func(_ *testing.T, x *trial) {
				i := bytes.Index(x.Claims, []byte(`"n":"`)) + 5
				copy(x.Claims[i:i+342], strings.Repeat("A", 342))
			}},
		},
		attest.CheckHCLUserData: {
			{name: "another user-data", forge: func(_ *testing.T, x *trial) { x.policy.UserData = bytes.Repeat([]byte{1}, 64) }},
			{name: "no user-data in the claims", forge: func(t *testing.T, x *trial) {
				x.policy.UserData = make([]byte, 64)
				claims(`"user-data"`, `"other-data"`)(t, x)
			}},
		},
	}
}

func snpForgeries() map[string][]forgery {
	report := func(change func(raw []byte)) func(*testing.T, *trial) {
		return func(_ *testing.T, x *trial) { x.ChangeReport = change }
	}
	set := func(at int, value byte) func(*testing.T, *trial) { return report(func(raw []byte) { raw[at] = value }) }
	return map[string][]forgery{
		attest.CheckSNPStructure: {
			{name: "version 1", forge: set(0x00, 1)},
			{name: "version 6", forge: set(0x00, 6)},
			{name: "reserved field used", forge: set(0x4C, 1)},
			{name: "another signature algorithm", forge: set(0x34, 2)},
			{name: "signed by a VLEK", also: []string{attest.CheckSNPIdentity, attest.CheckSNPSignature}, forge: func(_ *testing.T, x *trial) {
				x.ChangeEvidence = func(e *attest.Evidence) { e.HCLReport[32+0x48] = 1 << 2 }
			}},
		},
		attest.CheckSNPChain: {
			{name: "a root of the attacker's own", forge: func(_ *testing.T, x *trial) {
				x.ChangeAnchors = func(a *attest.TrustAnchors) { a.AMD = attest.DefaultTrustAnchors().AMD }
			}},
			{name: "a root of another product line", also: []string{attest.CheckSNPIdentity}, forge: func(_ *testing.T, x *trial) {
				x.ChangeAnchors = func(a *attest.TrustAnchors) { a.AMD[0].Product = "Genoa" }
			}},
			{name: "no certificate at all", forge: func(_ *testing.T, x *trial) {
				x.ChangeEvidence = func(e *attest.Evidence) { e.VCEKChain = [][]byte{{0x30, 0x00}} }
			}},
			{name: "the ASK in the VCEK's place", also: []string{attest.CheckSNPIdentity, attest.CheckSNPSignature}, forge: func(_ *testing.T, x *trial) {
				x.ChangeEvidence = func(e *attest.Evidence) { e.VCEKChain = e.VCEKChain[1:] }
			}},
			{name: "an expired VCEK", also: []string{attest.CheckAKCertificate}, forge: func(_ *testing.T, x *trial) { x.now = x.now.AddDate(8, 0, 0) }},
		},
		attest.CheckSNPIdentity: {
			{name: "another chip", forge: set(0x1A0, 0xEE)},
			{name: "a masked chip id", forge: report(func(raw []byte) { clear(raw[0x1A0:0x1E0]) })},
			{name: "an older firmware level than the VCEK's", forge: set(0x180, 3)},
			{name: "a CPU of another product line", forge: set(0x189, 0x11)},
		},
		attest.CheckSNPSignature: {
			{name: "a measurement changed after signing", forge: func(_ *testing.T, x *trial) {
				x.ChangeEvidence = func(e *attest.Evidence) { e.HCLReport[32+0x90] ^= 1 }
			}},
			{name: "R of zero", forge: func(_ *testing.T, x *trial) {
				x.ChangeEvidence = func(e *attest.Evidence) { clear(e.HCLReport[32+0x2A0 : 32+0x2A0+72]) }
			}},
			{name: "R with bytes above the curve's size", forge: func(_ *testing.T, x *trial) {
				x.ChangeEvidence = func(e *attest.Evidence) { e.HCLReport[32+0x2A0+60] = 1 }
			}},
		},
		attest.CheckSNPPolicy: {
			{name: "debugging allowed", forge: report(func(raw []byte) { raw[0x08+2] |= 1 << 3 })},
			{name: "migration allowed", forge: report(func(raw []byte) { raw[0x08+2] |= 1 << 2 })},
			{name: "requested from VMPL 1", forge: set(0x30, 1)},
			{name: "ABI too old", forge: func(_ *testing.T, x *trial) { x.policy.MinABI = 1<<8 | 52 }},
			{name: "SMT against the policy", forge: func(_ *testing.T, x *trial) { x.policy.ForbidSMT = true }},
			{name: "no alias check", forge: func(t *testing.T, x *trial) {
				x.policy.PlatformInfo = 1 << 5
				set(0x40, 0x05)(t, x)
			}},
		},
		attest.CheckSNPTCB: {
			{name: "committed below reported", forge: set(0x1E0, 3)},
			{name: "current below committed", forge: set(0x38, 3)},
			{name: "below the policy's minimum in one component", forge: func(_ *testing.T, x *trial) { x.policy.MinTCB = 5 }},
		},
		attest.CheckSNPLaunch: {
			{name: "firmware of another party on a genuine chip", forge: func(_ *testing.T, x *trial) { x.IDKeyDigest = make([]byte, 48) }},
			{name: "firmware that no ID key signed, and a list with the digest of none", forge: func(_ *testing.T, x *trial) {
				x.IDKeyDigest = make([]byte, 48)
				x.policy.Launch = attest.Launch{IDKeyDigests: [][]byte{make([]byte, 48)}}
			}},
			{name: "an old guest SVN", forge: func(_ *testing.T, x *trial) { x.policy.Launch.MinGuestSVN = 13 }},
			{name: "a measurement that is not on the list", forge: func(_ *testing.T, x *trial) {
				x.policy.Launch = attest.Launch{Measurements: [][]byte{make([]byte, 48)}}
			}},
		},
		attest.CheckSNPRevocation: {
			{name: "the ASK is revoked", forge: func(t *testing.T, x *trial) {
				x.ChangeAnchors = func(a *attest.TrustAnchors) { a.AMD[0].CRL = x.AMD.CRL(t, a.AMD[0].ASK.SerialNumber, at.Epoch()) }
			}},
			{name: "the list is of another product line", forge: func(_ *testing.T, x *trial) { x.policy.RequireRevocationList = true }},
			{name: "the list is of some certificates only", forge: func(t *testing.T, x *trial) {
				x.ChangeAnchors = func(a *attest.TrustAnchors) {
					a.AMD[0].CRL = x.AMD.ChangedCRL(t, big.NewInt(99), at.Epoch(), func(l *x509.RevocationList) {
						l.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 27}, Critical: true, Value: []byte{2, 1, 1}}}
					})
				}
			}},
			{name: "an entry of the list is about another issuer's certificate", forge: func(t *testing.T, x *trial) {
				x.ChangeAnchors = func(a *attest.TrustAnchors) {
					a.AMD[0].CRL = x.AMD.ChangedCRL(t, big.NewInt(99), at.Epoch(), func(l *x509.RevocationList) {
						l.RevokedCertificateEntries[0].ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 29}, Critical: true, Value: []byte{0x30, 0}}}
					})
				}
			}},
			{name: "the list is out of date", forge: func(t *testing.T, x *trial) {
				x.ChangeAnchors = func(a *attest.TrustAnchors) {
					a.AMD[0].CRL = x.AMD.CRL(t, big.NewInt(99), at.Epoch().AddDate(0, -6, 0))
				}
			}},
			{name: "the list is not AMD's", forge: func(t *testing.T, x *trial) {
				x.ChangeAnchors = func(a *attest.TrustAnchors) {
					a.AMD[0].CRL = x.AMD.CRL(t, big.NewInt(99), at.Epoch())
					a.AMD[0].CRL.Signature[0] ^= 1
				}
			}},
		},
	}
}
