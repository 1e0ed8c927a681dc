package attest_test

import (
	"crypto/x509/pkix"
	"encoding/asn1"
	"slices"
	"sync"
	"testing"

	"github.com/keyagent/keyagent/attest"
	at "github.com/keyagent/keyagent/attest/internal/attesttest"
)

var (
	processorsOnce sync.Once
	theProcessors  map[string]*at.AMD
)

// processor returns a processor that is made once: the random source behind the chains is not safe
// for concurrent use.
func processor(t testing.TB, name string) *at.AMD {
	t.Helper()
	sharedWorld(t) // makes a chain, too
	processorsOnce.Do(func() {
		theProcessors = map[string]*at.AMD{}
		for name, p := range processors(t) {
			theProcessors[name] = at.NewProcessor(t, p)
		}
	})
	p := theProcessors[name]
	if p == nil {
		t.Fatalf("no processor %q", name)
	}
	return p
}

func processors(t testing.TB) map[string]at.Processor {
	t.Helper()
	with := func(p at.Processor, change func(*at.Processor)) at.Processor {
		change(&p)
		return p
	}
	certified := func(p at.Processor, change func([]pkix.Extension) []pkix.Extension) at.Processor {
		p.Extensions = change
		return p
	}
	without := func(tail ...int) func([]pkix.Extension) []pkix.Extension {
		return func(list []pkix.Extension) []pkix.Extension {
			return slices.DeleteFunc(list, func(e pkix.Extension) bool { return e.Id.Equal(amdOID(tail...)) })
		}
	}
	set := func(value []byte, tail ...int) func([]pkix.Extension) []pkix.Extension {
		return func(list []pkix.Extension) []pkix.Extension {
			return append(without(tail...)(list), pkix.Extension{Id: amdOID(tail...), Value: value})
		}
	}
	integer := func(n byte) []byte { return []byte{asn1.TagInteger, 1, n} }
	vlek := func(p *at.Processor) { p.VLEK = true }
	return map[string]at.Processor{
		"Milan, version 2":    with(at.Milan(), func(p *at.Processor) { p.ReportVersion = 2 }),
		"Milan, version 5":    with(at.Milan(), func(p *at.Processor) { p.ReportVersion = 5 }),
		"Genoa":               at.Genoa(),
		"Bergamo":             with(at.Genoa(), func(p *at.Processor) { p.CPUID[1] = 0xA0 }),
		"Turin":               at.Turin(),
		"Turin, version 2":    with(at.Turin(), func(p *at.Processor) { p.ReportVersion = 2 }),
		"Turin, dense":        with(at.Turin(), func(p *at.Processor) { p.CPUID[1] = 0x11 }),
		"Turin, tagged id":    certified(at.Turin(), set(append([]byte{asn1.TagOctetString, 8}, at.Turin().ChipID[:8]...), 4)),
		"Milan, another chip": with(at.Milan(), func(p *at.Processor) { p.ChipID = slices.Repeat([]byte{9}, 64) }),
		"Milan, older":        with(at.Milan(), func(p *at.Processor) { p.TCB = 0xdb17000000000004 }),
		"Milan, VLEK":         with(at.Milan(), vlek),
		"Turin, VLEK":         with(at.Turin(), vlek),

		"a chip id of 64 bytes on Turin":    certified(at.Turin(), set(at.Milan().ChipID, 4)),
		"a chip id of 8 bytes on Milan":     certified(at.Milan(), set(at.Turin().ChipID[:8], 4)),
		"no fmcSPL on Turin":                certified(at.Turin(), without(3, 9)),
		"fmcSPL on Milan":                   certified(at.Milan(), set(integer(0), 3, 9)),
		"no snpSPL":                         certified(at.Milan(), without(3, 3)),
		"a level above 255":                 certified(at.Milan(), set([]byte{asn1.TagInteger, 2, 1, 0xdb}, 3, 8)),
		"a level that is no integer":        certified(at.Milan(), set([]byte{asn1.TagOctetString, 1, 0xdb}, 3, 8)),
		"structure version 0 on Turin":      certified(at.Turin(), set(integer(0), 1)),
		"structure version 1 on Milan":      certified(at.Milan(), set(integer(1), 1)),
		"structure version 2":               certified(at.Milan(), set(integer(2), 1)),
		"an extension that is not known":    certified(at.Milan(), set(integer(1), 6)),
		"a component that is not known":     certified(at.Milan(), set(integer(1), 3, 10)),
		"a reserved component":              certified(at.Turin(), set(integer(1), 3, 5)),
		"a product name of another type":    certified(at.Milan(), set([]byte{asn1.TagUTF8String, 5, 'M', 'i', 'l', 'a', 'n'}, 2)),
		"a product name and more":           certified(at.Milan(), set([]byte{asn1.TagIA5String, 5, 'M', 'i', 'l', 'a', 'n', 0}, 2)),
		"a chip and a provider":             certified(at.Milan(), set([]byte{asn1.TagIA5String, 1, 'x'}, 5)),
		"neither chip nor provider":         certified(at.Milan(), without(4)),
		"a VCEK of Genoa from Milan's ASK":  with(at.Genoa(), func(p *at.Processor) { p.Issuer = "Milan" }),
		"a VCEK of a line unknown to a CPU": with(at.Genoa(), func(p *at.Processor) { p.CPUID = [3]byte{0x1B, 0x00, 0x00} }),
	}
}

func amdOID(tail ...int) asn1.ObjectIdentifier {
	return append(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1}, tail...)
}

func TestEachProductLineIsVerified(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ line, provider string }{
		"Milan, version 2": {"Milan", ""},
		"Milan, version 5": {"Milan", ""},
		"Genoa":            {"Genoa", ""},
		"Bergamo":          {"Genoa", ""},
		"Turin":            {"Turin", ""},
		"Turin, version 2": {"Turin", ""},
		"Turin, dense":     {"Turin", ""},
		"Turin, tagged id": {"Turin", ""},
		"Milan, VLEK":      {"Milan", at.CSP},
		"Turin, VLEK":      {"Turin", at.CSP},
	} {
		x := newTrial(t)
		x.AMD = processor(t, name)
		if tt.provider != "" {
			x.policy.VLEKProviders = []string{"another", tt.provider}
		}
		r := x.run(t)
		if err := r.Err(); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if r.Product != tt.line || r.Endorsement.CSP != tt.provider || r.Kind != attest.KindSNP {
			t.Errorf("%s: product %q, provider %q, kind %q", name, r.Product, r.Endorsement.CSP, r.Kind)
		}
	}
}

// productForgeries are of what differs between AMD's product lines, and of reserved fields.
func productForgeries() map[string][]forgery {
	on := func(name string, change func(raw []byte)) func(*testing.T, *trial) {
		return func(t *testing.T, x *trial) { x.AMD, x.ChangeReport = processor(t, name), change }
	}
	set := func(at int, value byte) func(raw []byte) { return func(raw []byte) { raw[at] = value } }
	milan := func(at int, value byte) func(*testing.T, *trial) {
		return func(_ *testing.T, x *trial) { x.ChangeReport = set(at, value) }
	}
	after := func(at int, value byte) func(*testing.T, *trial) {
		return func(_ *testing.T, x *trial) {
			x.ChangeEvidence = func(e *attest.Evidence) { e.HCLReport[32+at] = value }
		}
	}
	policyToo, identityToo := []string{attest.CheckSNPPolicy}, []string{attest.CheckSNPIdentity}
	all := map[string][]forgery{
		attest.CheckSNPStructure: {
			{name: "mitigation vectors in version 3", forge: milan(0x1F8, 1)},
			{name: "a current mitigation vector in version 3", forge: milan(0x200, 1)},
			{name: "bytes after the mitigation vectors", forge: on("Turin", set(0x208, 1))},
			{name: "the last byte that is signed", forge: milan(0x29F, 1)},
			{name: "a CPU in version 2", forge: on("Milan, version 2", set(0x188, 0x19))},
			{name: "bytes after the CPU", forge: milan(0x18B, 1)},
			{name: "bytes after the current build", forge: milan(0x1EB, 1)},
			{name: "bytes after the committed build", forge: milan(0x1EF, 1)},
			{name: "bytes after the signature", forge: after(0x330, 1)},
			{name: "the report's last byte", forge: after(0x49F, 1)},
			{name: "a reserved bit of the signer information", forge: milan(0x48, 1<<5)},
			{name: "signed by nobody", also: identityToo, forge: milan(0x48, 7<<2)},
			{name: "a reserved component of the current TCB", forge: milan(0x38+2, 1)},
			{name: "a reserved component of the launch TCB", forge: milan(0x1F0+5, 1)},
			{name: "a reserved component of the committed TCB", also: []string{attest.CheckSNPTCB}, forge: milan(0x1E0+3, 1)},
			{name: "a reserved component of the reported TCB", also: []string{attest.CheckSNPIdentity, attest.CheckSNPTCB}, forge: milan(0x180+4, 1)},
			{name: "a reserved component of Turin's current TCB", forge: on("Turin", set(0x38+4, 1))},
			{name: "a reserved component of Milan's in version 2", forge: on("Milan, version 2", set(0x38+2, 1))},
			{name: "a reserved component of Turin's in version 2", forge: on("Turin, version 2", set(0x38+6, 1))},
			{name: "VMPL 4", also: policyToo, forge: milan(0x30, 4)},
			{name: "platform info bit 6", also: policyToo, forge: milan(0x40, 0x65)},
			{name: "platform info bit 63", also: policyToo, forge: milan(0x47, 0x80)},
			{name: "a guest policy with a reserved bit", also: policyToo, forge: milan(0x0B, 1<<2)},
			{name: "a guest policy without the bit that must be one", also: policyToo, forge: milan(0x0A, 1)},
			{name: "a report of 1185 bytes", also: []string{attest.CheckBundleFormat}, forge: func(_ *testing.T, x *trial) {
				x.ChangeEvidence = func(e *attest.Evidence) {
					e.SNPReport, e.RuntimeClaims, e.HCLReport = append(e.HCLReport[32:1216:1216], 0), x.Claims, nil
				}
			}},
			{name: "a provider's key without a policy for it", also: identityToo, forge: on("Milan, VLEK", nil)},
		},
		attest.CheckSNPSignature: {
			{name: "S with bytes above the curve's size", forge: after(0x2A0+72+71, 1)},
			{name: "S of zero", forge: func(_ *testing.T, x *trial) {
				x.ChangeEvidence = func(e *attest.Evidence) { clear(e.HCLReport[32+0x2A0+72 : 32+0x330]) }
			}},
			{name: "R and S exchanged", forge: func(_ *testing.T, x *trial) {
				x.ChangeEvidence = func(e *attest.Evidence) {
					r, s := e.HCLReport[32+0x2A0:32+0x2A0+72], e.HCLReport[32+0x2A0+72:32+0x330]
					for i := range r {
						r[i], s[i] = s[i], r[i]
					}
				}
			}},
		},
		attest.CheckSNPIdentity: {
			{name: "bytes after Turin's chip id", forge: on("Turin", set(0x1A0+8, 1))},
			{name: "another chip's id on Turin", forge: on("Turin", set(0x1A0+7, 0xEE))},
			{name: "another FMC level than the VCEK's", forge: on("Turin", set(0x180, 0))},
			{name: "a CPU that is not known", forge: on("a VCEK of a line unknown to a CPU", nil)},
			{name: "a provider that the policy does not name", forge: func(t *testing.T, x *trial) {
				x.AMD, x.policy.VLEKProviders = processor(t, "Milan, VLEK"), []string{"microsoft azure"}
			}},
			{name: "a VLEK for a report that says VCEK", forge: func(t *testing.T, x *trial) {
				x.AMD, x.policy.VLEKProviders = processor(t, "Milan, VLEK"), []string{at.CSP}
				x.ChangeReport = set(0x48, 0)
			}},
			{name: "a VCEK for a report that says VLEK", forge: func(_ *testing.T, x *trial) {
				x.policy.VLEKProviders, x.ChangeReport = []string{at.CSP}, set(0x48, 1<<2)
			}},
		},
		attest.CheckSNPChain: {
			{name: "a VLEK where no ASVK is trusted", forge: func(t *testing.T, x *trial) {
				x.AMD, x.policy.VLEKProviders = processor(t, "Milan, VLEK"), []string{at.CSP}
				x.ChangeAnchors = func(a *attest.TrustAnchors) { a.AMD[0].ASVK = nil }
			}},
			{name: "a VCEK of Genoa from Milan's ASK", also: identityToo, forge: func(t *testing.T, x *trial) {
				x.AMD = processor(t, "a VCEK of Genoa from Milan's ASK")
				x.ChangeAnchors = func(a *attest.TrustAnchors) { a.AMD[0].Product = "Milan" }
			}},
		},
		attest.CheckSNPRevocation: {
			{name: "the ASVK is revoked", forge: func(t *testing.T, x *trial) {
				x.AMD, x.policy.VLEKProviders = processor(t, "Milan, VLEK"), []string{at.CSP}
				x.ChangeAnchors = func(a *attest.TrustAnchors) { a.AMD[0].CRL = x.AMD.CRL(t, a.AMD[0].ASVK.SerialNumber, at.Epoch()) }
			}},
		},
	}
	for _, name := range []string{
		"a chip id of 64 bytes on Turin", "a chip id of 8 bytes on Milan", "no fmcSPL on Turin", "fmcSPL on Milan", "no snpSPL", "a level above 255",
		"a level that is no integer", "structure version 0 on Turin", "structure version 1 on Milan", "structure version 2",
		"an extension that is not known", "a component that is not known", "a reserved component",
		"a product name of another type", "a product name and more", "a chip and a provider", "neither chip nor provider",
	} {
		all[attest.CheckSNPChain] = append(all[attest.CheckSNPChain], forgery{name: "certified: " + name, forge: on(name, nil), also: identityToo})
	}
	return all
}

func TestPlatformInfoOfTheFutureIsAcceptedByNameOnly(t *testing.T) {
	t.Parallel()
	x := newTrial(t)
	x.ChangeReport = func(raw []byte) { raw[0x40] |= 1 << 6 }
	for allowed, ok := range map[uint64]bool{0: false, 1 << 8: false, 1 << 6: true} {
		x.policy.AllowPlatformInfo = allowed
		if err := x.run(t).Err(); (err == nil) != ok {
			t.Errorf("bit 6 with %#x allowed: %v", allowed, err)
		}
	}
}
