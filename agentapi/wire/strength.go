package wire

// Strengths of a credential: how well it is protected against somebody who would use it in the
// agent's place.
const (
	StrengthAttested  = "attested"   // key in a TPM, certificate issued on attestation evidence
	StrengthTPM       = "tpm"        // key in a TPM, and the connection to Entra proved it
	StrengthTPMSigned = "tpm-signed" // assertion that a key in a TPM signed: of use for ten minutes to whoever intercepts it
	StrengthSoftware  = "software"   // key in the agent's memory, and the connection to Entra proved it
	StrengthNone      = "none"       // a copy of the stored or sent credential can be used
)

// Strengths returns all of them. Each is stronger than those after it, except that neither of
// tpm-signed and software is stronger than the other.
func Strengths() []string {
	return []string{StrengthAttested, StrengthTPM, StrengthTPMSigned, StrengthSoftware, StrengthNone}
}
