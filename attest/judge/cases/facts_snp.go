package cases

import (
	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/tee"
	"github.com/keyagent/keyagent/internal/certs"
)

func snpFacts(p *parts, r *attest.Result) (group, error) {
	s := r.SNP
	if s == nil {
		return nil, errNoPart
	}
	g := group{
		"version": s.Version, "guest_svn": s.GuestSVN, "policy": s.Policy, "family_id": s.FamilyID, "image_id": s.ImageID,
		"vmpl": s.VMPL, "signature_algo": s.SignatureAlgo, "platform_info": s.PlatformInfo, "signer_info": s.SignerInfo,
		"signing_key": s.SigningKey, "author_key_en": s.AuthorKeyUsed(),
		"current_tcb": s.CurrentTCB, "reported_tcb": s.ReportedTCB, "committed_tcb": s.CommittedTCB, "launch_tcb": s.LaunchTCB,
		"report_data": s.ReportData, "measurement": s.Measurement, "host_data": s.HostData,
		"id_key_digest": s.IDKeyDigest, "author_key_digest": s.AuthorKeyDigest,
		"report_id": s.ReportID, "report_id_ma": s.ReportIDMA, "chip_id": s.ChipID, "chip_id_prefix": prefix(s.ChipID),
		"launch_mit_vector": s.LaunchMitVector, "current_mit_vector": s.CurrentMitVector,
		"product": s.ProductLine, "product_line": s.ProductLine,
		"cpuid_family": s.CPUID[0], "cpuid_model": s.CPUID[1], "cpuid_stepping": s.CPUID[2],
		"cpuid_fam_id": s.CPUID[0], "cpuid_mod_id": s.CPUID[1], "cpuid_step": s.CPUID[2],
	}
	for _, kind := range []string{"vcek", "vlek"} {
		addEndorsement(g, kind+"_", r.Endorsement)
	}
	addCertificate(g, p)
	return g, nil
}

func addEndorsement(g group, kind string, e *tee.Endorsement) {
	if e == nil || (kind == "vcek_") != (e.SigningKey() == tee.SigningKeyVCEK) {
		return
	}
	g[kind+"tcb"], g[kind+"product"], g[kind+"struct_version"] = e.TCB, e.ProductName, e.StructVersion
	if e.HWID != nil {
		g[kind+"hwid"], g[kind+"hwid_prefix"], g[kind+"hwid_size"] = e.HWID, prefix(e.HWID), len(e.HWID)
	}
	if e.CSP != "" {
		g[kind+"csp_id"], g["csp_id"] = e.CSP, e.CSP
	}
}

// addCertificate adds what package x509 reads of the certificate that comes first in the chain.
func addCertificate(g group, p *parts) {
	if len(p.evidence.VCEKChain) == 0 {
		return
	}
	cert, err := certs.Parse(p.evidence.VCEKChain[0])
	if err != nil {
		return
	}
	for _, kind := range []string{"vcek_", "vlek_"} {
		g[kind+"not_before"], g[kind+"not_after"] = cert.NotBefore, cert.NotAfter
		g[kind+"subject_cn"], g[kind+"issuer_cn"] = cert.Subject.CommonName, cert.Issuer.CommonName
	}
}
