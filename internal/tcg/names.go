package tcg

import (
	"cmp"
	"fmt"
	"math/bits"
	"strings"
)

// Algorithm names a TPM_ALG_ID, such as "TPM_ALG_SHA256 (0x000b)".
func Algorithm(id uint16) string { return named(algorithms()[id], "TPM_ALG_", "0x%04x", id) }

// Bank names a bank of PCRs as tpm2-tools do, such as "sha256": in lower case and without the
// number.
func Bank(id uint16) string {
	if name, known := algorithms()[id]; known {
		return strings.ToLower(name)
	}
	return named("", "", "0x%04x", id)
}

// Curve names a TPM_ECC_CURVE, such as "TPM_ECC_NIST_P256 (0x0003)".
func Curve(id uint16) string { return named(curves()[id], "TPM_ECC_", "0x%04x", id) }

// Structure names a TPM_ST, such as "TPM_ST_ATTEST_QUOTE (0x8018)".
func Structure(tag uint16) string { return named(structures()[tag], "TPM_ST_", "0x%04x", tag) }

// Command names the TPM_CC of a command, such as "TPM2_PolicyPCR (0x17f)".
func Command(code uint32) string { return named(commands()[code], "TPM2_", "0x%03x", code) }

// Capability names a TPM_CAP, such as "TPM_CAP_PCRS (0x5)".
func Capability(id uint32) string { return named(capabilities()[id], "TPM_CAP_", "0x%x", id) }

// Handle names a TPM_HANDLE: "TPM_RH_OWNER (0x40000001)", "persistent handle 0x81000001".
func Handle(h uint32) string {
	if name, known := permanents()[h]; known {
		return named(name, "TPM_RH_", "0x%08x", h)
	}
	if kind, known := handleKinds()[byte(h>>24)]; known {
		return fmt.Sprintf("%s 0x%08x", kind, h)
	}
	return named("", "", "0x%08x", h)
}

// Attributes lists the bits of a TPMA_OBJECT that are set, such as "fixedTPM|sign (0x00040002)".
func Attributes(set uint32) string {
	var list []string
	for rest := set; rest != 0; rest &= rest - 1 {
		bit := bits.TrailingZeros32(rest)
		name, known := attributes()[bit]
		if !known {
			name = fmt.Sprintf("bit %d", bit)
		}
		list = append(list, name)
	}
	return fmt.Sprintf("%s (0x%08x)", cmp.Or(strings.Join(list, "|"), "none"), set)
}

func named(name, prefix, format string, number any) string {
	if name == "" {
		return fmt.Sprintf(format+" (unknown)", number)
	}
	return fmt.Sprintf("%s%s ("+format+")", prefix, name, number)
}
