package config

import (
	"encoding/hex"
	"net/url"
	"strings"
)

// CollateralNone is the value of [TDX].Collateral for none.
const CollateralNone = "none"

// TDX configures evidence of VMs with Intel TDX.
type TDX struct {
	// Collateral says where Intel's statements on the processor's firmware come from, for
	// which verifiers ask: none, the https URL of a cache of Intel's service, or the absolute
	// path of a directory that is kept current. Default: Intel's service,
	// https://api.trustedservices.intel.com, which learns the kind of processor. It is asked
	// on VMs with TDX only, through the proxy if there is one. A directory has tcb-info.json and
	// qe-identity.json as they are signed, tcb-info.sig.hex, qe-identity.sig.hex,
	// tcb-info-issuer-chain.pem, qe-identity-issuer-chain.pem, pck-crl-issuer-chain.pem,
	// root-ca-crl.der and pck-crl.der.
	Collateral string `yaml:"collateral,omitempty"`
	// Roots is a PEM file with roots to trust besides Intel's own. Default: none. It is read as
	// strictly as ca_file.
	Roots string `yaml:"roots,omitempty"`
	// MRTDs are launch identities to trust besides the known ones of Azure's
	// paravisor: hex of the 48 bytes of mrtd. Default: none.
	MRTDs []string `yaml:"mrtds,omitempty"`
}

func (t TDX) check(f *findings) {
	for i, digest := range t.MRTDs {
		if b, err := hex.DecodeString(digest); err != nil || len(b) != 48 {
			f.add("attestation.tdx.mrtds[%d]: not the hex form of 48 bytes", i)
		}
	}
	if t.Roots != "" {
		f.wantAbsolute("attestation.tdx.roots", t.Roots)
	}
	if t.Collateral == "" || t.Collateral == CollateralNone || strings.HasPrefix(t.Collateral, "/") {
		return
	}
	u, err := url.Parse(t.Collateral)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		f.add("attestation.tdx.collateral: it is neither none, an https URL without query, nor an absolute path")
	}
}
