package formats

import (
	"slices"

	"github.com/keyagent/keyagent/attest"
)

// Values of trustworthiness claims (AR4SI, 3.1). 0 is no claim; the first of a tier is its usual
// one.
const (
	noClaim = 0

	genuineInstance  = 2
	approvedConfig   = 2
	approvedBoot     = 3
	genuineHardware  = 2
	encryptedMemory  = 2
	unsafeHardware   = 32
	unrecognizedBoot = 33
	untrustworthy    = 96 // also: configuration and runtime that are not acceptable, hardware that is revoked
	unrecognized     = 97
)

// vector is the AR4SI trustworthiness vector. Nothing is claimed of file systems, data that come
// from elsewhere, and storage.
type vector struct {
	InstanceIdentity int8 `json:"instance-identity"`
	Configuration    int8 `json:"configuration"`
	Executables      int8 `json:"executables"`
	FileSystem       int8 `json:"file-system"`
	Hardware         int8 `json:"hardware"`
	RuntimeOpaque    int8 `json:"runtime-opaque"`
	StorageOpaque    int8 `json:"storage-opaque"`
	SourcedData      int8 `json:"sourced-data"`
}

// tier is a trustworthiness tier by its word.
type tier string

const (
	none            tier = "none"
	affirming       tier = "affirming"
	warning         tier = "warning"
	contraindicated tier = "contraindicated"
)

// outcomes are the checks of a result.
type outcomes struct{ *attest.Result }

func (o outcomes) any(s attest.Status, names ...string) bool {
	return slices.ContainsFunc(names, func(n string) bool { return o.Status(n) == s })
}

func (o outcomes) passed(names ...string) bool {
	return !o.any(attest.Fail, names...) && !o.any(attest.NotApplicable, names...)
}

// hardwareChecks are those of one kind of TEE.
type hardwareChecks struct {
	genuine  []string // the report is of a genuine processor, and of Azure's firmware
	revoked  []string
	firmware []string // its level
	memory   string   // nobody can look into it
}

func checksOf(kind attest.Kind) (hardwareChecks, bool) {
	switch kind {
	case "snp":
		return hardwareChecks{
			genuine:  []string{attest.CheckSNPStructure, attest.CheckSNPChain, attest.CheckSNPIdentity, attest.CheckSNPSignature, attest.CheckSNPLaunch},
			revoked:  []string{attest.CheckSNPRevocation},
			firmware: []string{attest.CheckSNPTCB},
			memory:   attest.CheckSNPPolicy,
		}, true
	case "tdx":
		return hardwareChecks{
			genuine:  []string{attest.CheckTDXStructure, attest.CheckTDXReport, attest.CheckTDXChain, attest.CheckTDXQE, attest.CheckTDXSignature, attest.CheckTDXLaunch},
			revoked:  []string{attest.CheckTDXCollateral},
			firmware: []string{attest.CheckTDXTCB},
			memory:   attest.CheckTDXPolicy,
		}, true
	}
	return hardwareChecks{}, false
}

// newVector gives a value to each category that was checked.
func newVector(r *attest.Result) vector {
	o := outcomes{r}
	v := vector{
		InstanceIdentity: o.instance(),
		Configuration:    o.configuration(),
		Executables:      o.executables(),
	}
	if checks, ok := checksOf(r.Kind); ok {
		v.Hardware, v.RuntimeOpaque = o.hardware(checks), o.memory(checks)
	}
	return v
}

func (o outcomes) instance() int8 {
	switch {
	case o.any(attest.Fail, attest.CheckQuoteSignature, attest.CheckQuoteSigner, attest.CheckAKPublic, attest.CheckHCLBinding):
		return untrustworthy
	case o.any(attest.Fail, attest.CheckAKCertificate, attest.CheckPolicyVMID):
		return unrecognized
	case o.passed(attest.CheckQuoteStructure, attest.CheckQuoteSignature, attest.CheckQuoteSigner):
		return genuineInstance
	}
	return noClaim
}

func (o outcomes) configuration() int8 {
	rules := []string{attest.CheckPolicySecureBoot, attest.CheckPolicyTEE, attest.CheckEventLogPolicy}
	switch {
	case o.any(attest.Fail, rules...):
		return untrustworthy
	case o.any(attest.Pass, attest.CheckPolicySecureBoot, attest.CheckEventLogPolicy):
		return approvedConfig
	}
	return noClaim
}

// executables are those of the boot; no claim is made without values that a policy expects.
func (o outcomes) executables() int8 {
	switch o.Status(attest.CheckPolicyPCR) {
	case attest.Fail:
		return unrecognizedBoot
	case attest.Pass:
		if o.passed(attest.CheckQuoteSignature, attest.CheckQuoteDigest) {
			return approvedBoot
		}
	}
	return noClaim
}

func (o outcomes) hardware(c hardwareChecks) int8 {
	switch {
	case o.any(attest.Fail, c.genuine...):
		return unrecognized
	case o.any(attest.Fail, c.revoked...):
		return untrustworthy
	case o.any(attest.Fail, c.firmware...):
		return unsafeHardware
	case o.passed(slices.Concat(c.genuine, c.firmware)...):
		return genuineHardware
	}
	return noClaim
}

func (o outcomes) memory(c hardwareChecks) int8 {
	switch {
	case o.any(attest.Fail, c.memory):
		return untrustworthy
	case o.hardware(c) == genuineHardware && o.passed(c.memory):
		return encryptedMemory
	}
	return noClaim
}

// values lists the claims.
func (v vector) values() []int8 {
	return []int8{
		v.InstanceIdentity, v.Configuration, v.Executables, v.FileSystem,
		v.Hardware, v.RuntimeOpaque, v.StorageOpaque, v.SourcedData,
	}
}

// status is the tier of a result: affirming only if the evidence is verified and no claim of the
// vector is worse.
func status(r *attest.Result, v vector) tier {
	if !r.Verified() {
		return contraindicated
	}
	worst := slices.Max(v.values())
	switch {
	case worst >= untrustworthy:
		return contraindicated
	case worst >= unsafeHardware:
		return warning
	case worst == noClaim:
		return none
	}
	return affirming
}
