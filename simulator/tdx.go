package simulator

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/renameio/v2"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/simulator/pki"
)

// Hardware that a VM can have.
const (
	SNP = "sev-snp" // AMD SEV-SNP
	TDX = "tdx"     // Intel TDX
)

// addTDX makes the VM one with Intel TDX. Its launch identity is random, as that of SEV-SNP is.
func (a *authorities) addTDX(now time.Time) error {
	var err error
	if a.tdx, err = pki.NewTDXPlatform(now); err != nil {
		return fmt.Errorf("making a platform of Intel's: %w", err)
	}
	_, err = rand.Read(a.mrtd[:])
	return err
}

// hardwareReport is what the processor says about the guest.
func (a *authorities) hardwareReport(reportData [64]byte) ([]byte, error) {
	if a.tdx != nil {
		return a.tdx.TDReport(a.mrtd, reportData)
	}
	return a.processor.Report(a.launch, reportData)
}

// describe says what hardware the VM has.
func (a *authorities) describe(info *Info, dir string) {
	info.TEE = SNP
	if a.tdx != nil {
		info.TEE, info.MRTD = TDX, hex.EncodeToString(a.mrtd[:])
		info.IntelRootsFile, info.CollateralDir = filepath.Join(dir, "intel-roots.pem"), filepath.Join(dir, "collateral")
	}
}

// writeCollateral writes Intel's root and collateral, if the VM has TDX.
func (a *authorities) writeCollateral(info Info) error {
	if a.tdx == nil {
		return nil
	}
	files, err := a.tdx.Collateral()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(info.CollateralDir, 0o700); err != nil {
		return err
	}
	for name, content := range files {
		if err := renameio.WriteFile(filepath.Join(info.CollateralDir, name), content, 0o600); err != nil {
			return fmt.Errorf("writing %s: %w", name, err)
		}
	}
	return renameio.WriteFile(info.IntelRootsFile, a.tdx.RootPEM(), 0o600)
}

// collateral is what the attestation service has from Intel; nil for a VM without TDX.
func (a *authorities) collateral() (*attest.TDXCollateral, error) {
	if a.tdx == nil {
		return nil, nil
	}
	files, err := a.tdx.Collateral()
	if err != nil {
		return nil, err
	}
	var signatures [2][]byte
	for i, name := range []string{"tcb-info.sig.hex", "qe-identity.sig.hex"} {
		if signatures[i], err = hex.DecodeString(strings.TrimSpace(string(files[name]))); err != nil {
			return nil, err
		}
	}
	return &attest.TDXCollateral{
		TCBInfo: files["tcb-info.json"], TCBInfoSignature: signatures[0], TCBInfoChain: files["tcb-info-issuer-chain.pem"],
		QEIdentity: files["qe-identity.json"], QEIdentitySignature: signatures[1], QEIdentityChain: files["qe-identity-issuer-chain.pem"],
		RootCACRL: files["root-ca-crl.der"], PCKCRL: files["pck-crl.der"], PCKCRLChain: files["pck-crl-issuer-chain.pem"],
	}, nil
}

func (a *authorities) intelRoots() []*x509.Certificate {
	if a.tdx == nil {
		return nil
	}
	return []*x509.Certificate{a.tdx.Root}
}
