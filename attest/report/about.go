package report

// about is a check in plain English.
type about struct {
	proves string // what follows if it passes
	fails  string // what would make it fail
}

// aboutChecks has the checks of the reference procedure, in package attest's doc.go.
func aboutChecks() map[string]about {
	return map[string]about{
		"bundle.format": {"the evidence is one bundle of a known format that can be read in one way only", "unknown members, parts beyond their size, the hardware report in two forms"},
		"bundle.nonce":  {"the bundle says itself that it is for your challenge (what the TPM signed proves it)", "a bundle that was made for another nonce or audience"},

		"hcl.structure": {"the paravisor's report can be read in one way only", "unknown versions, lengths that do not fit, bytes where there should be none"},
		"hcl.binding":   {"the hardware signed exactly these runtime claims", "claims that were changed, or taken from another machine"},
		"hcl.claims":    {"the claims name exactly one usable attestation key", "two keys, a weak key, members that occur twice"},
		"hcl.user-data": {"the hardware report was made for this exchange", "guest input (user-data) other than the expected one"},

		"snp.structure":  {"the SEV-SNP report is of a known version and signed by a chip's key", "unknown versions or algorithms, reserved fields in use"},
		"snp.chain":      {"AMD certified the chip's key (VCEK)", "a certificate that does not lead to a trusted AMD root, or is not valid at this time"},
		"snp.identity":   {"the certificate is of this chip at this firmware level", "a certificate of another chip, firmware level or product line"},
		"snp.signature":  {"that chip signed this report", "a report that was changed, or signed by another key"},
		"snp.policy":     {"the host can neither debug nor migrate the guest, and the paravisor asked for the report", "debugging or a migration agent allowed, a report asked for at another privilege level, options that the policy forbids"},
		"snp.tcb":        {"the processor's firmware is at least as new as the policy asks", "a component below the policy's minimum, levels out of order"},
		"snp.launch":     {"the firmware in the guest is Azure's paravisor", "firmware of anybody else: a genuine chip runs anybody's"},
		"snp.revocation": {"AMD has not revoked the certificates", "a revoked certificate, a list that is out of date or not AMD's"},

		"tdx.report":     {"the TD report in the paravisor's report and the quote say the same", "a field in which they differ"},
		"tdx.structure":  {"the TD quote is of a known version and can be read in one way only", "unknown versions, lengths that do not fit"},
		"tdx.chain":      {"Intel certified the platform's key (PCK)", "a certificate that does not lead to Intel's root, or is not valid at this time"},
		"tdx.qe":         {"Intel's quoting enclave vouches for the key that signed the quote", "another enclave, or one that is out of date"},
		"tdx.signature":  {"that key signed this quote", "a quote that was changed, or signed by another key"},
		"tdx.collateral": {"Intel's statements about firmware levels and revocation are genuine and current", "collateral that is missing, expired, or about another platform"},
		"tdx.tcb":        {"the processor's firmware is at a level that Intel and the policy accept", "a status that the policy does not list"},
		"tdx.policy":     {"the host cannot debug the guest, and the guest has the attributes that the policy asks for", "debugging allowed, attributes that the policy forbids"},
		"tdx.launch":     {"the firmware in the guest is Azure's paravisor", "firmware of anybody else: a genuine processor runs anybody's"},

		"ak.public":      {"the attestation key that was sent along is the one in the hardware-signed claims", "another key in its place"},
		"ak.certificate": {"Microsoft certified the attestation key as that of an Azure virtual TPM", "a certificate of another key, of another authority, or not for a Confidential VM"},

		"key.public":            {"the binding key is an RSA signing key that its TPM made and will not let go", "a key that could leave the TPM, or was made outside of it"},
		"key.certify.structure": {"the statement about the key was made by a TPM", "bytes that only look like a statement"},
		"key.certify.signature": {"the attestation key signed the statement", "a statement that was changed, or signed by another key"},
		"key.certify.signer":    {"the signer is the attestation key in its hierarchy", "a key of the same kind elsewhere"},
		"key.certify.name":      {"the statement is about the key shown", "the attributes of one key beside the statement about another"},
		"key.certify.location":  {"the key survives a reset of the TPM", "a key of the NULL hierarchy"},
		"key.certify.nonce":     {"the statement about the key was made for your challenge", "an old statement, or one made for somebody else"},
		"key.match":             {"the key that you asked about is the one in the evidence", "evidence about another key"},

		"quote.structure": {"the quote was made by a TPM", "bytes that only look like a quote"},
		"quote.signature": {"the attestation key signed the quote", "a quote that was changed, or signed by another key"},
		"quote.signer":    {"the signer is the attestation key in its hierarchy", "a key of the same kind elsewhere"},
		"quote.nonce":     {"the quote was made for your challenge and goes with this key", "an old quote, or one made for somebody else or for another key"},
		"quote.selection": {"the quote covers the PCRs that the policy asks for", "a PCR that is left out, another bank"},
		"quote.digest":    {"the PCR values listed are those quoted", "a value that was changed, added or left out"},
		"quote.coherence": {"quote and key statement are from one boot of one TPM", "parts of different boots"},

		"eventlog.replay": {"the event log is the one that led to the quoted PCRs", "events that were changed, added or left out"},
		"eventlog.policy": {"the boot went as the policy asks", "secure boot off, unexpected keys or boot loaders"},

		"policy.tee":         {"the hardware is of a kind that the policy lists", "another kind of hardware"},
		"policy.secure-boot": {"secure boot is on in the VM's configuration", "secure boot off or not mentioned"},
		"policy.vm-id":       {"it is the VM that the policy names", "another VM"},
		"policy.pcr":         {"PCRs have values that the policy lists", "another value, or a PCR that is not quoted"},
		"policy.age":         {"the evidence is no older than the policy says", "a nonce that was given out too long ago, or at an unknown time"},
	}
}

// neverProven is what evidence of this kind cannot show, whatever its checks say.
func neverProven() []string {
	return []string{
		"whose VM it is: evidence names no tenant and no subscription",
		"what runs in it now: boot measurements say how it started",
		"that nobody with physical access to the host attacked the processor",
	}
}
