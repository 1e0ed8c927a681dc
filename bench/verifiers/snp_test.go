package verifiers_test

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-sev-guest/abi"
	spb "github.com/google/go-sev-guest/proto/sevsnp"
	"github.com/google/go-sev-guest/verify"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/tee"
)

// captured is when the evidence was made, roughly: its certificates were valid then.
func captured() time.Time { return time.Date(2026, 8, 1, 0, 0, 0, 0, time.UTC) }

// capture reads a file of a real SEV-SNP machine.
func capture(b *testing.B, name string) []byte {
	b.Helper()
	content, err := os.ReadFile(filepath.Join("..", "..", "testdata", "azure-cvm", "snp-milan-2026", name))
	if err != nil {
		b.Fatal(err)
	}
	return content
}

// chainOf splits a PEM text into DER.
func chainOf(b *testing.B, text []byte) (der [][]byte) {
	b.Helper()
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		der = append(der, block.Bytes)
	}
	if len(der) != 3 {
		b.Fatalf("%d certificates", len(der))
	}
	return der
}

// BenchmarkSNP compares the hardware part of a verification with go-sev-guest's: the same steps, on
// the same report and certificates, from their bytes on. As "whole", ours is all that is made of
// such evidence: the claims and their binding, policy, TCB and launch identity as well.
func BenchmarkSNP(b *testing.B) {
	report, claims, chain := capture(b, "snp-report.bin"), capture(b, "runtime-claims.json"), chainOf(b, capture(b, "vcek-chain.pem"))
	roots := tee.DefaultAMDRoots()
	anchors, policy := attest.DefaultTrustAnchors(), attest.DefaultPolicy()
	compare(b, func() error { return verifyHardware(report, chain[0], roots) },
		func() error {
			parsed, err := abi.ReportToProto(report)
			if err != nil {
				return err
			}
			attestation := &spb.Attestation{Report: parsed, CertificateChain: &spb.CertificateChain{VcekCert: chain[0], AskCert: chain[1], ArkCert: chain[2]}}
			return verify.SnpAttestation(attestation, &verify.Options{DisableCertFetching: true, Now: captured()})
		},
		func() error {
			e := &attest.Evidence{RuntimeClaims: claims}
			e.SNPReport, e.VCEKChain = report, chain
			return passed(attest.VerifyExpected(e, attest.Expected{}, anchors, policy, captured()), "snp.")
		})
}

// verifyHardware is what attest's checks of an SNP report do, but for the policy.
func verifyHardware(raw, signer []byte, roots []tee.AMDRoot) error {
	report, err := tee.ReadSNPReport(raw)
	if err != nil {
		return err
	}
	vcek, err := x509.ParseCertificate(signer)
	if err != nil {
		return err
	}
	endorsement, err := tee.ParseEndorsement(vcek)
	if err != nil {
		return err
	}
	root, err := tee.VerifySigner(vcek, roots, captured())
	if err != nil {
		return err
	}
	return errors.Join(report.CheckStructure(tee.StructureRules{Line: endorsement.Line()}),
		tee.CheckIdentity(report, vcek, root), report.VerifySignature(vcek))
}
