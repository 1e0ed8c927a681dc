package verifiers_test

import (
	"crypto/x509"
	"encoding/hex"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tdx-guest/abi"
	"github.com/google/go-tdx-guest/pcs"
	"github.com/google/go-tdx-guest/verify"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/tee"
)

// tdxCaptured is when the evidence of the TDX machine was made, roughly.
func tdxCaptured() time.Time { return time.Date(2026, 6, 10, 0, 0, 0, 0, time.UTC) }

// tdxCapture reads a file of a real TDX machine, in hexadecimal if its name says so.
func tdxCapture(b *testing.B, name string) []byte {
	b.Helper()
	content, err := os.ReadFile(filepath.Join("..", "..", "testdata", "azure-cvm", "tdx-2026", filepath.FromSlash(name)))
	if err == nil && strings.HasSuffix(name, ".hex") {
		content, err = hex.DecodeString(strings.TrimSpace(string(content)))
	}
	if err != nil {
		b.Fatal(err)
	}
	return content
}

func tdxCollateral(b *testing.B) *tee.TDXCollateral {
	b.Helper()
	return &tee.TDXCollateral{
		TCBInfo: tdxCapture(b, "collateral/tcb-info.json"), TCBInfoSignature: tdxCapture(b, "collateral/tcb-info.sig.hex"),
		TCBInfoChain: tdxCapture(b, "collateral/tcb-info-issuer-chain.pem"),
		QEIdentity:   tdxCapture(b, "collateral/qe-identity.json"), QEIdentitySignature: tdxCapture(b, "collateral/qe-identity.sig.hex"),
		QEIdentityChain: tdxCapture(b, "collateral/qe-identity-issuer-chain.pem"),
		RootCACRL:       tdxCapture(b, "collateral/root-ca-crl.der"), PCKCRL: tdxCapture(b, "collateral/pck-crl.der"),
		PCKCRLChain: tdxCapture(b, "collateral/pck-crl-issuer-chain.pem"),
	}
}

// BenchmarkTDX is [BenchmarkSNP] for a TD quote with Intel's collateral, beside go-tdx-guest:
// quote, PCK chain, quoting enclave, both statements, both revocation lists, TCB level.
func BenchmarkTDX(b *testing.B) {
	quote, collateral, roots := tdxCapture(b, "td-quote.bin"), tdxCollateral(b), tee.DefaultIntelRoots()
	report := tdxCapture(b, "hcl-report.bin")
	anchors, policy := attest.DefaultTrustAnchors(), attest.DefaultPolicy()
	service, pool := serviceWith(collateral), x509.NewCertPool()
	for _, root := range roots {
		pool.AddCert(root)
	}
	compare(b, func() error { return verifyTDXHardware(quote, collateral, roots) },
		func() error {
			parsed, err := abi.QuoteToProto(quote)
			if err != nil {
				return err
			}
			at := tdxCaptured()
			return verify.TdxQuote(parsed, &verify.Options{
				GetCollateral: true, CheckRevocations: true, Getter: service, TrustedRoots: pool,
				Now: &verify.TimeSet{PckCertChain: at, TcbInfo: at, QeIdentity: at, PckCrl: at, RootCaCrl: at}, // one that is zero is not checked
			})
		},
		func() error {
			e := &attest.Evidence{HCLReport: report}
			e.TDQuote, e.TDXCollateral = quote, collateral
			return passed(attest.VerifyExpected(e, attest.Expected{}, anchors, policy, tdxCaptured()), "tdx.")
		})
}

// verifyTDXHardware is what attest's checks of a TD quote do, but for the policy.
func verifyTDXHardware(raw []byte, collateral *tee.TDXCollateral, roots []*x509.Certificate) error {
	quote, err := tee.ParseTDQuote(raw)
	if err != nil {
		return err
	}
	chain, err := tee.ParseChain(quote.PCKChain)
	if err != nil {
		return err
	}
	pck, err := tee.ParsePCK(chain[0])
	if err != nil {
		return err
	}
	info, err := tee.ParseTCBInfo(collateral.TCBInfo)
	if err != nil {
		return err
	}
	qe, err := tee.ParseQEIdentity(collateral.QEIdentity)
	if err != nil {
		return err
	}
	if err := errors.Join(tee.VerifyPCKChain(chain, roots, tdxCaptured()),
		quote.VerifyQE(pck.Key), quote.CheckQE(qe), quote.VerifySignature(),
		collateral.Verify(info, qe, tee.CollateralUse{Roots: roots, Time: tdxCaptured(), PCKChain: chain, PCK: pck})); err != nil {
		return err
	}
	level, err := info.Evaluate(tee.Platform{PCK: pck, Quote: quote, QE: qe})
	if err == nil && level.Status != tee.UpToDate {
		err = errors.New("the platform is " + string(level.Status))
	}
	return err
}

// service answers as Intel's service does.
type service struct {
	info, qe, root, pck       []byte
	infoChain, qeChain, chain string
}

// serviceWith makes the service's answers of the collateral.
func serviceWith(c *tee.TDXCollateral) service {
	statement := func(member string, signed, signature []byte) []byte {
		return []byte(`{"` + member + `":` + string(signed) + `,"signature":"` + hex.EncodeToString(signature) + `"}`)
	}
	escaped := func(chain []byte) string { return url.QueryEscape(string(chain)) }
	return service{
		info: statement("tcbInfo", c.TCBInfo, c.TCBInfoSignature), infoChain: escaped(c.TCBInfoChain),
		qe: statement("enclaveIdentity", c.QEIdentity, c.QEIdentitySignature), qeChain: escaped(c.QEIdentityChain),
		pck: c.PCKCRL, chain: escaped(c.PCKCRLChain), root: c.RootCACRL,
	}
}

// Get implements trust.HTTPSGetter of go-tdx-guest.
func (s service) Get(address string) (map[string][]string, []byte, error) {
	switch {
	case strings.Contains(address, "/tcb?"):
		return map[string][]string{pcs.TcbInfoIssuerChainPhrase: {s.infoChain}}, s.info, nil
	case strings.Contains(address, "/qe/identity"):
		return map[string][]string{pcs.SgxQeIdentityIssuerChainPhrase: {s.qeChain}}, s.qe, nil
	case strings.Contains(address, "/pckcrl"):
		return map[string][]string{pcs.SgxPckCrlIssuerChainPhrase: {s.chain}}, s.pck, nil
	case strings.Contains(address, "IntelSGXRootCA"):
		return nil, s.root, nil
	}
	return nil, nil, errors.New("the service has no " + address)
}
