package tpm

import (
	"fmt"
	"strings"

	"github.com/google/go-tpm/tpm2"
)

// primary is a storage key that programs make out of a template. The same template gives the same
// key, until TPM2_Clear: of the owner hierarchy, the seed changes then. The endorsement hierarchy's
// does not, so that its primaries keep their Names, and only keys made under them are lost (TPM 2.0
// Part 3, 24.6).
type primary struct {
	title     string
	hierarchy tpm2.TPMHandle
	template  tpm2.TPMTPublic
}

// derivedRoot is the index of the primary that parent 0x40000001 of a key file stands for.
const derivedRoot = 0

// knownPrimaries are the storage keys that programs are known to make, the one of [derivedRoot]
// first, then the others in the order in which they are likely to be a key's parent. Two templates
// that differ only in how many zeros their unique field has give two keys.
func knownPrimaries() []primary {
	const owner, endorsement = tpm2.TPMRHOwner, tpm2.TPMRHEndorsement
	return []primary{
		{"the ECC P-256 primary of template H-2, as TPM 2.0 key files and systemd have it", owner, eccPrimary(true, 0)},
		{"the RSA-2048 primary of template H-1, as on Azure", owner, rsaPrimary(true, 256)},
		{"the RSA-2048 primary of template H-1, with an empty unique field", owner, rsaPrimary(true, 0)},
		{"the ECC P-256 primary of template H-2, with a unique field of zeros", owner, eccPrimary(true, 32)},
		{"the default RSA primary of tpm2-tools, as of tpm2_ptool and tss2_provision", owner, rsaPrimary(false, 0)},
		{"the default ECC primary of tpm2-tools, as of tss2_provision and clevis", owner, eccPrimary(false, 0)},
		{"the RSA storage key that go-attestation makes in the endorsement hierarchy", endorsement, rsaPrimary(true, 256)},
		{"the ECC storage key that go-attestation makes in the endorsement hierarchy", endorsement, eccPrimary(true, 32)},
	}
}

// rsaPrimary is the TCG's template of an RSA-2048 storage key (TPM v2.0 Provisioning Guidance 1.0,
// 7.5.1), with or without noDA, and with a unique field of so many zeros.
func rsaPrimary(noDA bool, zeros int) tpm2.TPMTPublic {
	t := tpm2.RSASRKTemplate
	t.ObjectAttributes.NoDA = noDA
	t.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: make([]byte, zeros)})
	return t
}

// eccPrimary is the same for ECC P-256; the zeros are those of each coordinate.
func eccPrimary(noDA bool, zeros int) tpm2.TPMTPublic {
	t := tpm2.ECCSRKTemplate
	t.ObjectAttributes.NoDA = noDA
	t.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
		X: tpm2.TPM2BECCParameter{Buffer: make([]byte, zeros)}, Y: tpm2.TPM2BECCParameter{Buffer: make([]byte, zeros)},
	})
	return t
}

// ownerPassword is what the commands of persistAt take the owner's password from.
const ownerPassword = "OWNER_PASSWORD"

// persistAt is a line for the shell that makes the primary with tpm2-tools 5 and puts it at a
// persistent handle. Where the owner hierarchy has a password, the line takes it from a variable of
// the shell, and gives it to the tools in a file that only the user can read: anybody can read the
// arguments of their processes. Nothing of it is left, also if a command fails.
func (p primary) persistAt(h tpm2.TPMHandle, password bool) string {
	zeros, create := p.uniqueField()
	authorize, write := "", ""
	if password {
		write = `printf 'str:%s' "$` + ownerPassword + `" >"$d/p" && `
		authorize = ` -P "file:$d/p"`
	}
	createAuth := authorize
	if p.hierarchy != tpm2.TPMRHOwner {
		createAuth = "" // the password of another hierarchy, which is taken to be empty
	}
	return fmt.Sprintf(`(d=$(mktemp -d) && trap 'rm -r "$d"' EXIT && %s%stpm2_createprimary -Q -C %s%s -g sha256 %s -a '%s' -c "$d/root" && tpm2_evictcontrol -Q -C o%s -c "$d/root" 0x%08x)`,
		write, zeros, map[tpm2.TPMHandle]string{tpm2.TPMRHOwner: "o", tpm2.TPMRHEndorsement: "e"}[p.hierarchy], createAuth, create,
		strings.ToLower(strings.Join(AttributeNames(p.template.ObjectAttributes), "|")), authorize, uint32(h))
}

// uniqueField says how tpm2_createprimary gets the template's unique field, and which key it is to
// make. From standard input it reads the field without sizes, and halves it for an ECC key.
func (p primary) uniqueField() (pipe, options string) {
	options, zeros := "-G ecc256:aes128cfb", 0
	if rsa, err := p.template.Unique.RSA(); err == nil {
		options, zeros = "-G rsa2048:aes128cfb", len(rsa.Buffer)
	}
	if point, err := p.template.Unique.ECC(); err == nil {
		zeros = len(point.X.Buffer) + len(point.Y.Buffer)
	}
	if zeros > 0 {
		return fmt.Sprintf("head -c %d /dev/zero | ", zeros), options + " -u -"
	}
	return "", options
}
