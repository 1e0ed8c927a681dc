package cases

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/hcl"
)

var errNoPart = errors.New("there is no such part")

func hclFacts(p *parts, _ *attest.Result) (group, error) {
	raw := p.evidence.HCLReport
	report, err := hcl.Parse(raw)
	if err != nil {
		return nil, err
	}
	return group{
		"nv_size": len(raw), "version": report.Version, "report_type": uint32(report.Type), "hash_type": report.HashType,
		"claims_size": len(report.Claims),
		// hcl.Parse has held these two of the header against the rest.
		"report_size": binary.LittleEndian.Uint32(raw[8:]), "request_type": binary.LittleEndian.Uint32(raw[12:]),
	}, nil
}

// rawClaims returns the runtime claims, from whichever form the case has them in.
func rawClaims(p *parts) ([]byte, error) {
	if p.evidence.HCLReport == nil {
		if p.evidence.RuntimeClaims == nil {
			return nil, errNoPart
		}
		return p.evidence.RuntimeClaims, nil
	}
	report, err := hcl.Parse(p.evidence.HCLReport)
	if err != nil {
		return nil, err
	}
	return report.Claims, nil
}

func claimsFacts(p *parts, r *attest.Result) (group, error) {
	raw, err := rawClaims(p)
	if err != nil {
		return nil, err
	}
	claims, err := hcl.ParseClaims(raw)
	if err != nil {
		return nil, err
	}
	var doc struct {
		Keys []struct {
			KeyID      string `json:"kid"`
			Operations []any  `json:"key_ops"`
		} `json:"keys"`
		Configuration map[string]any `json:"vm-configuration"`
	}
	dec := json.NewDecoder(strings.NewReader(string(raw)))
	dec.UseNumber()
	if err := dec.Decode(&doc); err != nil {
		return nil, err
	}
	sum := sha256.Sum256(raw)
	g := group{"sha256": sum[:], "user_data": userData(claims.UserData), "vm_configuration": doc.Configuration}
	for _, k := range doc.Keys {
		if k.KeyID == "HCLAkPub" {
			g["ak_key_ops"] = k.Operations
		}
	}
	modulus := claims.AK.N.Bytes()
	g["ak_modulus"] = modulus
	if r.AK != nil && r.AK.Public.Equal(claims.AK) {
		g["ak_name"], g["ak_qualified_name"] = r.AK.Name, r.AK.QualifiedName
	}
	return g, nil
}

// userData words the guest's input as files of cases do.
func userData(b []byte) any {
	switch {
	case b == nil:
		return "absent"
	case !slices.ContainsFunc(b, func(c byte) bool { return c != 0 }):
		return fmt.Sprintf("%d zero bytes", len(b))
	}
	return b
}

func quoteFacts(p *parts, _ *attest.Result) (group, error) {
	if p.evidence.Quote == nil {
		return nil, errNoPart
	}
	st, err := attest.ReadQuote(p.evidence.Quote)
	if err != nil {
		return nil, err
	}
	var selections []string
	for _, s := range st.Selections {
		selections = append(selections, fmt.Sprintf("%04x:%s", s.Bank, hex.EncodeToString(s.Bitmap)))
	}
	g := statementFacts(st, p.evidence.Quote)
	g["selection"], g["pcr_digest"] = strings.Join(selections, ","), st.PCRDigest
	return g, nil
}

func certifyFacts(p *parts, _ *attest.Result) (group, error) {
	if p.evidence.Certify == nil {
		return nil, errNoPart
	}
	st, err := attest.ReadCertify(p.evidence.Certify)
	if err != nil {
		return nil, err
	}
	g := statementFacts(st, p.evidence.Certify)
	g["name"], g["qualified_name"] = st.Name, st.QualifiedName
	return g, nil
}

func statementFacts(st *attest.Statement, raw []byte) group {
	return group{
		"size": len(raw), "qualified_signer": st.QualifiedSigner, "extra_data": st.ExtraData,
		"clock": st.Clock.Milliseconds, "reset_count": st.Clock.ResetCount, "restart_count": st.Clock.RestartCount,
		"safe": st.Clock.Safe, "firmware_version": st.Clock.FirmwareVersion,
	}
}

func akCertificateFacts(p *parts, _ *attest.Result) (group, error) {
	if p.evidence.AKCertificate == nil {
		return nil, errNoPart
	}
	der, err := attest.TrimCertificate(p.evidence.AKCertificate)
	if err != nil {
		return nil, err
	}
	cert, err := attest.ParseAKCertificate(p.evidence.AKCertificate)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(der)
	return group{
		"nv_size": len(p.evidence.AKCertificate), "size": len(der), "sha256": sum[:],
		"subject": cert.Subject.String(), "subject_cn": cert.Subject.CommonName,
		"issuer": cert.Issuer.String(), "issuer_cn": cert.Issuer.CommonName,
		"serial": cert.SerialNumber.Bytes(), "not_before": cert.NotBefore, "not_after": cert.NotAfter,
		"signature_algorithm": cert.SignatureAlgorithm.String(),
	}, nil
}
