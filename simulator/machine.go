package simulator

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/uuid"

	"github.com/keyagent/keyagent/simulator/bootlog"
	"github.com/keyagent/keyagent/simulator/pki"
	"github.com/keyagent/keyagent/simulator/vtpm"
)

// vaultURI is the resource that the simulated web API answers for.
const vaultURI = "https://vault.azure.net"

// graphURI is another one, under /v1.0/.
const graphURI = "https://graph.microsoft.com"

// managementURI is a resource that takes no certificate-bound tokens.
const managementURI = "https://management.azure.com"

// maxSocketPath is the longest path of a Unix socket on Linux (sockaddr_un, without the final NUL).
const maxSocketPath = 107

// authorities are the platform's certificate authorities, and the VM's launch identity.
type authorities struct {
	processor *pki.Processor
	vtpm      *pki.VTPMAuthority
	identity  *pki.IdentityIssuer
	servers   *pki.ServerAuthority
	apps      *pki.ApplicationAuthority
	launch    pki.Launch
	tdx       *pki.TDXPlatform // nil on a VM with SEV-SNP
	mrtd      [48]byte
}

func newAuthorities(now time.Time, keys pki.Keys, tee string) (*authorities, error) {
	a := &authorities{launch: pki.Launch{GuestSVN: 12}}
	if tee == TDX {
		if err := a.addTDX(now); err != nil {
			return nil, err
		}
	}
	var err error
	if a.processor, err = keys.NewProcessor(pki.Milan(), now); err != nil {
		return nil, err
	}
	if a.vtpm, err = keys.NewVTPMAuthority(now); err != nil {
		return nil, err
	}
	if a.identity, err = keys.NewIdentityIssuer(now); err != nil {
		return nil, err
	}
	if a.servers, err = pki.NewServerAuthority(now); err != nil {
		return nil, err
	}
	if a.apps, err = pki.NewApplicationAuthority(now); err != nil {
		return nil, err
	}
	// Random, so that no verifier takes a simulated VM for one of Azure's unless it was told to.
	_, errDigest := rand.Read(a.launch.IDKeyDigest[:])
	_, errMeasurement := rand.Read(a.launch.Measurement[:])
	return a, errors.Join(errDigest, errMeasurement)
}

// newInfo invents the ids of tenant, VM, identities and applications.
func newInfo(dir string) Info {
	const group = "/subscriptions/00000000-0000-4000-8000-00000000cafe/resourcegroups/simulated/providers/"
	return Info{
		TenantID:         uuid.NewString(),
		VMID:             uuid.NewString(),
		ResourceAudience: vaultURI,
		CAFile:           filepath.Join(dir, "ca.pem"),
		AppCAFile:        filepath.Join(dir, "app-ca.pem"),
		AMDRootsFile:     filepath.Join(dir, "amd-roots.pem"),
		VTPMRootsFile:    filepath.Join(dir, "vtpm-roots.pem"),
		ConfigFile:       filepath.Join(dir, configFile),
		PolicyFile:       filepath.Join(dir, "policy.yaml"),
		EventLogFile:     filepath.Join(dir, "event_log"),
		TPM:              "unix:" + filepath.Join(dir, "tpm.sock"),
		Identities: []Identity{
			{
				Name: "vm", Kind: SystemAssigned, ClientID: uuid.NewString(), ObjectID: uuid.NewString(),
				ResourceID: group + "Microsoft.Compute/virtualMachines/vm",
			},
			{
				Name: "vm-user", Kind: UserAssigned, ClientID: uuid.NewString(), ObjectID: uuid.NewString(),
				ResourceID: group + "Microsoft.ManagedIdentity/userAssignedIdentities/vm-user",
			},
		},
		Applications: []Application{
			{Name: "app-fic", ClientID: uuid.NewString(), ObjectID: uuid.NewString()},
			{Name: "app-cert", ClientID: uuid.NewString(), ObjectID: uuid.NewString()},
		},
	}
}

// startTPM powers the TPM on and does what paravisor and host do on Azure: certify the AK, and have
// the processor vouch for it.
func (p *Platform) startTPM(ctx context.Context, a *authorities) error {
	socket := p.info.TPM[len("unix:"):]
	if len(socket) > maxSocketPath {
		return fmt.Errorf("the path of the TPM's socket has %d bytes, and Linux allows %d; use a shorter directory: %s", len(socket), maxSocketPath, socket)
	}
	// GRUB's command line, as an Azure image has it.
	p.boot = bootlog.Boot(bootlog.Machine{SecureBoot: true, CommandLine: "/boot/vmlinuz-6.8.0-azure root=LABEL=cloudimg-rootfs ro console=ttyS0"})
	var err error
	if p.tpm, err = vtpm.Start(ctx, vtpm.Config{Socket: socket, Azure: true, Boot: p.boot}); err != nil {
		return err
	}
	p.closers = append(p.closers, p.tpm.Close)
	ak, err := rsaPublic(p.tpm.AKPublic())
	if err != nil {
		return err
	}
	certificate, err := a.vtpm.CertifyAK(ak, p.clock.Now())
	if err != nil {
		return err
	}
	if err := p.tpm.SetAKCertificate(ctx, certificate.Raw); err != nil {
		return err
	}
	vmID := p.info.VMID
	p.tpm.SetHCLReport(func(userData []byte) ([]byte, error) { return a.hclReport(ak, vmID, userData) })
	p.info.IDKeyDigest = hex.EncodeToString(a.launch.IDKeyDigest[:])
	return nil
}

func (a *authorities) hclReport(ak *rsa.PublicKey, vmID string, userData []byte) ([]byte, error) {
	claims, err := pki.RuntimeClaims{AK: ak, VMID: vmID, UserData: userData}.Encode()
	if err != nil {
		return nil, err
	}
	report, err := a.hardwareReport(pki.ReportData(claims))
	if err != nil {
		return nil, err
	}
	return pki.HCLReport(report, claims)
}

// rsaPublic reads the key out of a TPMT_PUBLIC.
func rsaPublic(area []byte) (*rsa.PublicKey, error) {
	public, err := tpm2.Unmarshal[tpm2.TPMTPublic](area)
	if err != nil {
		return nil, fmt.Errorf("attestation key: %w", err)
	}
	parms, errParms := public.Parameters.RSADetail()
	unique, errUnique := public.Unique.RSA()
	if err := errors.Join(errParms, errUnique); err != nil {
		return nil, fmt.Errorf("attestation key: %w", err)
	}
	return tpm2.RSAPub(parms, unique)
}
