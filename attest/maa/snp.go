package maa

import (
	"encoding/base64"
	"encoding/json"
	"encoding/pem"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/hcl"
)

// snp is AMD SEV-SNP.
func snp() platform { return platform{kind: hcl.TypeSNP, name: "SevSnp", proof: encodeSNP} }

// snpProof is what the service takes for AMD SEV-SNP.
type snpProof struct {
	Report string `json:"SnpReport"`     // base64url
	Chain  string `json:"VcekCertChain"` // standard base64 of PEM: VCEK, ASK, ARK
}

func encodeSNP(hardware []byte, e *attest.Evidence) ([]byte, error) {
	var chain []byte
	for _, der := range e.VCEKChain {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return json.Marshal(snpProof{
		Report: base64.RawURLEncoding.EncodeToString(hardware),
		Chain:  base64.StdEncoding.EncodeToString(chain),
	})
}
