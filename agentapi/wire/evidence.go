package wire

// PathEvidence is where attestation evidence is asked for, by POST.
const PathEvidence = "/v1/evidence"

// ContentTypeEvidence is the media type of the answer of [PathEvidence], which docs/evidence.md
// describes.
const ContentTypeEvidence = "application/vnd.keyagent.evidence+json"

// MaxEvidenceRequestBytes limits a request for evidence.
const MaxEvidenceRequestBytes = 16 << 10

// MaxEvidenceBytes limits a bundle, with its event log.
const MaxEvidenceBytes = 1 << 20

// EvidenceRequest is the body of POST [PathEvidence], a JSON object of at most
// [MaxEvidenceRequestBytes].
type EvidenceRequest struct {
	// Nonce is the verifier's, of 16 to 64 bytes, in base64url without padding.
	Nonce string `json:"nonce"`
	// Audience names the verifier, as by its URL, in at most 1024 bytes: evidence that is made for
	// one audience is worthless to another.
	Audience string `json:"audience"`
	// Identity asks about the key that an identity proves itself with; the first, if it has
	// several. Key names a key of the agent. At most one of the two is needed, and none by a caller
	// that the rules give one key only.
	Identity string `json:"identity,omitempty"`
	Key      string `json:"key,omitempty"`
	// PCRs are those to be quoted, 0 to 23; none: those of the agent's configuration.
	PCRs []int `json:"pcrs,omitempty"`
	// PCRBank is the bank that is quoted, sha256 or sha384; "": sha256.
	PCRBank string `json:"pcr_bank,omitempty"`
	// EventLog adds the log of what the firmware measured, if the agent can read it.
	EventLog bool `json:"event_log,omitempty"`
	// HardwareFresh has the processor's report made anew, with a digest of nonce and audience in
	// it, which takes up to ten seconds.
	HardwareFresh bool `json:"hardware_fresh,omitempty"`
}
