package attest

import (
	"slices"
	"strings"

	"github.com/keyagent/keyagent/attest/hcl"
)

// A platform is a kind of machine that evidence can be about: its hardware report, the key that
// signs the report, and the rules for both. Each has a file of its own, and this file lists them;
// the rest of the package asks the platform of the evidence and names none.
//
// A new platform is a file with a type that implements platform, its entry in platforms, and its
// structs in the unions below. It may name checks, facts and parts of evidence as it likes.
type platform interface {
	bundled
	preset
	verifying
}

// platforms lists what this package knows, in the order of their rows in the procedure.
func platforms() []platform { return []platform{tdx{}, snp{}} }

// HardwareEvidence is what evidence has of each platform's own.
type HardwareEvidence struct {
	SNPEvidence
	TDXEvidence
}

// HardwarePolicy is what a verifier asks of each platform.
type HardwarePolicy struct {
	SNPPolicy
	TDXPolicy
}

// HardwareFacts are the facts in the hardware report; the member of its platform is set.
type HardwareFacts struct {
	SNPFacts
	TDXFacts
}

// wireReports are the members of a bundle for hardware reports without the paravisor's wrapper.
type wireReports struct {
	snpWireReport
	tdxWireReport
}

// wireEndorsements are the members of a bundle that vouch for the keys of hardware reports.
type wireEndorsements struct {
	snpWireEndorsements
	tdxWireEndorsements
}

// bundled is a platform's part of [Evidence] and of its encoding.
type bundled interface {
	// unwrapped returns the platform's hardware report and its claims if they were given without
	// the paravisor's wrapper, else nil.
	unwrapped(e *Evidence) *hcl.Report
	// validate checks sizes, whatever the policy.
	validate(e *Evidence) error
	encode(e *Evidence, w *wire)
	decode(w *wire, e *Evidence)
}

// preset is what a platform brings to the defaults.
type preset interface {
	addAnchors(a *TrustAnchors)
	addPolicy(p *Policy)
}

// verifying is a platform's part in verifying evidence.
type verifying interface {
	// prefix begins the names of the platform's checks, up to the first dot.
	prefix() string
	// of reports whether the evidence is about a machine of this platform. It is asked after the
	// wrapper was read.
	of(v *verifier) bool
	// vouches names the checks by which the platform vouches for the attestation key. None: this
	// version does not verify the platform, and refuses it.
	vouches() []string
	// join starts the platform's part in one verification.
	join(v *verifier) share
}

// share is a platform's part in one verification.
type share struct {
	rows   []step
	claims []claim
}

// joined is a platform with its share in one verification.
type joined struct {
	platform
	share
}

// join starts the verification of each platform.
func (v *verifier) join() []joined {
	var all []joined
	for _, p := range platforms() {
		all = append(all, joined{p, p.join(v)})
	}
	return all
}

// answering returns the platforms whose checks decide about the evidence: the one that it is of. If
// that is unknown or not verified by this version, all those that are: evidence of no known
// platform must not be asked for less.
func (v *verifier) answering(all []joined) []joined {
	if j, ok := v.unprotected(); ok {
		return []joined{j}
	}
	var verified []joined
	for _, j := range all {
		if len(j.vouches()) == 0 {
			continue
		}
		if j.of(v) {
			return []joined{j}
		}
		verified = append(verified, j)
	}
	return verified
}

func platformsOf(all []joined) []platform {
	var out []platform
	for _, j := range all {
		out = append(out, j.platform)
	}
	return out
}

// vouching names the checks by which the platforms vouch for the attestation key under this policy.
func vouching(answering []platform, policy Policy) []string {
	var names []string
	for _, p := range answering {
		names = append(names, p.vouches()...)
	}
	waived := policy.waived()
	return slices.DeleteFunc(names, func(name string) bool { return slices.Contains(waived, name) })
}

// counterparts returns the checks of the answering platforms that a required check stands for. A
// check of all platforms stands for itself. That of one platform stands for the check of the same
// name on the evidence's platform, which does not meet the requirement if it has no such check.
// Where the policy accepts evidence without a TEE, it falls away.
func counterparts(name string, answering []platform) []string {
	prefix, row, _ := strings.Cut(name, ".")
	if !slices.ContainsFunc(platforms(), func(p platform) bool { return p.prefix() == prefix }) {
		return []string{name}
	}
	var names []string
	for _, p := range answering {
		if _, none := p.(withoutTEE); !none {
			names = append(names, p.prefix()+"."+row)
		}
	}
	return names
}

// The kinds of evidence that a TEE vouches for: each platform by its prefix.
const (
	KindSNP Kind = "snp" // AMD SEV-SNP
	KindTDX Kind = "tdx" // Intel TDX
)
