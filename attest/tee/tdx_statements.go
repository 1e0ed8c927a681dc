package tee

import (
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/keyagent/keyagent/attest/internal/strictjson"
)

// The two documents and the versions of them that are read here (Intel PCS API version 4, "Get TDX
// TCB Info", "Get TDX Quoting Enclave Identity"). Members that Intel adds within a version are
// passed over; one that occurs twice is refused.
const (
	tcbInfoID         = "TDX"
	tcbInfoVersion    = 3
	tcbInfoType       = 0 // how levels are compared
	qeIdentityID      = "TD_QE"
	qeIdentityVersion = 2
	maxLevels         = 256
)

// TCBInfo is Intel's list of the firmware levels of one kind of platform, the newest first.
type TCBInfo struct {
	statement
	FMSPC   [6]byte
	PCEID   [2]byte
	levels  []tcbLevel
	module  moduleIdentity // for modules of major version 0
	modules []moduleIdentity
}

// tcbLevel is a level that a platform is at if each of its versions is at least that of the level.
type tcbLevel struct {
	SGX    [Components]uint8
	PCESVN uint16
	TDX    [Components]uint8
	judgement
}

// svnLevel is a level of one part, with a single security version.
type svnLevel struct {
	svn uint16
	judgement
}

// judgement is what Intel says about a level.
type judgement struct {
	Status     TCBStatus
	Date       time.Time // when Intel had fixed all that it knew of
	Advisories []string
}

// moduleIdentity says which TDX modules are Intel's.
type moduleIdentity struct {
	id             string
	mrSigner       []byte // 48
	attributes     []byte // 8
	attributesMask []byte // 8
	levels         []svnLevel
}

// hexBytes are bytes in hexadecimal digits of either case.
type hexBytes []byte

// UnmarshalText decodes the digits.
func (h *hexBytes) UnmarshalText(text []byte) error {
	b, err := hex.DecodeString(string(text))
	if err != nil {
		return errors.New("not hexadecimal")
	}
	*h = b
	return nil
}

type wireStatement struct {
	ID               string    `json:"id"`
	Version          int       `json:"version"`
	IssueDate        time.Time `json:"issueDate"`
	NextUpdate       time.Time `json:"nextUpdate"`
	EvaluationNumber *uint32   `json:"tcbEvaluationDataNumber"`
}

func (w *wireStatement) read(id string, version int) (statement, error) {
	if w.ID != id || w.Version != version {
		return statement{}, fmt.Errorf("%.20q of version %d is not supported, want %q of version %d", w.ID, w.Version, id, version)
	}
	if w.IssueDate.IsZero() || w.NextUpdate.IsZero() || w.EvaluationNumber == nil {
		return statement{}, errors.New("issue date, next update or TCB evaluation data number is missing")
	}
	return statement{w.IssueDate, w.NextUpdate, *w.EvaluationNumber}, nil
}

type wireJudgement struct {
	Status     TCBStatus `json:"tcbStatus"`
	Date       time.Time `json:"tcbDate"`
	Advisories []string  `json:"advisoryIDs"`
}

func (w *wireJudgement) read() (judgement, error) {
	if !w.Status.known() {
		return judgement{}, fmt.Errorf("unknown TCB status %.40q", w.Status)
	}
	return judgement(*w), nil
}

type wireSVNLevel struct {
	TCB struct {
		SVN *uint16 `json:"isvsvn"`
	} `json:"tcb"`
	wireJudgement
}

type wireModule struct {
	ID             string         `json:"id"`
	MRSigner       hexBytes       `json:"mrsigner"`
	Attributes     hexBytes       `json:"attributes"`
	AttributesMask hexBytes       `json:"attributesMask"`
	Levels         []wireSVNLevel `json:"tcbLevels"`
}

type wireComponent struct {
	SVN *uint8 `json:"svn"`
}

type wireTCBLevel struct {
	TCB struct {
		SGX    []wireComponent `json:"sgxtcbcomponents"`
		PCESVN *uint16         `json:"pcesvn"`
		TDX    []wireComponent `json:"tdxtcbcomponents"`
	} `json:"tcb"`
	wireJudgement
}

type wireTCBInfo struct {
	wireStatement
	FMSPC   hexBytes       `json:"fmspc"`
	PCEID   hexBytes       `json:"pceId"`
	Type    *int           `json:"tcbType"`
	Module  wireModule     `json:"tdxModule"`
	Modules []wireModule   `json:"tdxModuleIdentities"`
	Levels  []wireTCBLevel `json:"tcbLevels"`
}

// ParseTCBInfo reads TCB info of TDX. Nothing in it is proven until [TDXCollateral.Verify] has
// passed.
func ParseTCBInfo(data []byte) (*TCBInfo, error) {
	info, err := parseTCBInfo(data)
	if err != nil {
		return nil, fmt.Errorf("TCB info: %w", err)
	}
	return info, nil
}

func parseTCBInfo(data []byte) (*TCBInfo, error) {
	var w wireTCBInfo
	if len(data) > maxTCBInfo {
		return nil, fmt.Errorf("%d bytes, want at most %d", len(data), maxTCBInfo)
	}
	if err := strictjson.UnmarshalOpen(data, &w); err != nil {
		return nil, err
	}
	info := &TCBInfo{}
	var err error
	if info.statement, err = w.read(tcbInfoID, tcbInfoVersion); err != nil {
		return nil, err
	}
	if w.Type == nil || *w.Type != tcbInfoType {
		return nil, fmt.Errorf("TCB type is not %d, the one that is supported", tcbInfoType)
	}
	if copy(info.FMSPC[:], w.FMSPC) != len(w.FMSPC) || copy(info.PCEID[:], w.PCEID) != len(w.PCEID) || len(w.FMSPC) != 6 || len(w.PCEID) != 2 {
		return nil, errors.New("FMSPC or PCE id has another length")
	}
	if info.module, err = w.Module.read(); err != nil {
		return nil, err
	}
	for _, m := range w.Modules {
		module, err := m.read()
		if err != nil {
			return nil, err
		}
		info.modules = append(info.modules, module)
	}
	info.levels, err = readTCBLevels(w.Levels)
	return info, err
}

func readTCBLevels(list []wireTCBLevel) ([]tcbLevel, error) {
	if len(list) == 0 || len(list) > maxLevels {
		return nil, fmt.Errorf("%d TCB levels, want 1 to %d", len(list), maxLevels)
	}
	var levels []tcbLevel
	for _, w := range list {
		var l tcbLevel
		var err error
		if l.judgement, err = w.wireJudgement.read(); err != nil {
			return nil, err
		}
		if w.TCB.PCESVN == nil || !readComponents(w.TCB.SGX, &l.SGX) || !readComponents(w.TCB.TDX, &l.TDX) {
			return nil, errors.New("a TCB level lacks a component or the PCE's version")
		}
		l.PCESVN = *w.TCB.PCESVN
		levels = append(levels, l)
	}
	return levels, nil
}

func readComponents(list []wireComponent, out *[Components]uint8) bool {
	if len(list) != Components {
		return false
	}
	for i, c := range list {
		if c.SVN == nil {
			return false
		}
		out[i] = *c.SVN
	}
	return true
}

func (w *wireModule) read() (moduleIdentity, error) {
	if len(w.MRSigner) != 48 || len(w.Attributes) != 8 || len(w.AttributesMask) != 8 {
		return moduleIdentity{}, errors.New("an identity of TDX modules has fields of other lengths")
	}
	levels, err := readSVNLevels(w.Levels)
	return moduleIdentity{w.ID, w.MRSigner, w.Attributes, w.AttributesMask, levels}, err
}

func readSVNLevels(list []wireSVNLevel) ([]svnLevel, error) {
	if len(list) > maxLevels {
		return nil, fmt.Errorf("%d levels, want at most %d", len(list), maxLevels)
	}
	var levels []svnLevel
	for _, w := range list {
		j, err := w.wireJudgement.read()
		if err != nil {
			return nil, err
		}
		if w.TCB.SVN == nil {
			return nil, errors.New("a level lacks its security version")
		}
		levels = append(levels, svnLevel{*w.TCB.SVN, j})
	}
	return levels, nil
}

type wireQEIdentity struct {
	wireStatement
	MiscSelect     hexBytes       `json:"miscselect"`
	MiscMask       hexBytes       `json:"miscselectMask"`
	Attributes     hexBytes       `json:"attributes"`
	AttributesMask hexBytes       `json:"attributesMask"`
	MRSigner       hexBytes       `json:"mrsigner"`
	ProductID      *uint16        `json:"isvprodid"`
	Levels         []wireSVNLevel `json:"tcbLevels"`
}

// ParseQEIdentity reads the identity of the TD quoting enclave. Nothing in it is proven until
// [TDXCollateral.Verify] has passed.
func ParseQEIdentity(data []byte) (*QEIdentity, error) {
	id, err := parseQEIdentity(data)
	if err != nil {
		return nil, fmt.Errorf("QE identity: %w", err)
	}
	return id, nil
}

func parseQEIdentity(data []byte) (*QEIdentity, error) {
	var w wireQEIdentity
	if len(data) > maxQEIdentity {
		return nil, fmt.Errorf("%d bytes, want at most %d", len(data), maxQEIdentity)
	}
	if err := strictjson.UnmarshalOpen(data, &w); err != nil {
		return nil, err
	}
	id := &QEIdentity{
		MiscSelect: w.MiscSelect, MiscMask: w.MiscMask, Attributes: w.Attributes, AttributesMask: w.AttributesMask, MRSigner: w.MRSigner,
	}
	var err error
	if id.statement, err = w.read(qeIdentityID, qeIdentityVersion); err != nil {
		return nil, err
	}
	if len(w.MiscSelect) != 4 || len(w.MiscMask) != 4 || len(w.Attributes) != 16 || len(w.AttributesMask) != 16 || len(w.MRSigner) != 32 || w.ProductID == nil {
		return nil, errors.New("a field is missing or has another length")
	}
	id.ProductID = *w.ProductID
	if id.levels, err = readSVNLevels(w.Levels); err != nil {
		return nil, err
	}
	return id, nil
}
