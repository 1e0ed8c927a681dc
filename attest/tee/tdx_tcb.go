package tee

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// TCBStatus is what Intel says about a firmware level (Intel PCS API version 4, "tcbStatus").
type TCBStatus string

// Intel's statuses, from the best to the worst. Revoked is never acceptable: the keys of such a
// platform may be known to others.
const (
	UpToDate                          TCBStatus = "UpToDate"
	SWHardeningNeeded                 TCBStatus = "SWHardeningNeeded"
	ConfigurationNeeded               TCBStatus = "ConfigurationNeeded"
	ConfigurationAndSWHardeningNeeded TCBStatus = "ConfigurationAndSWHardeningNeeded"
	OutOfDate                         TCBStatus = "OutOfDate"
	OutOfDateConfigurationNeeded      TCBStatus = "OutOfDateConfigurationNeeded"
	Revoked                           TCBStatus = "Revoked"
)

func statuses() []TCBStatus {
	return []TCBStatus{
		UpToDate, SWHardeningNeeded, ConfigurationNeeded, ConfigurationAndSWHardeningNeeded,
		OutOfDate, OutOfDateConfigurationNeeded, Revoked,
	}
}

func (s TCBStatus) known() bool { return slices.Contains(statuses(), s) }

// What a status says of a platform. Every status of Intel's is a set of these.
const (
	needsHardening = 1 << iota
	needsConfiguration
	outdated
	revoked
)

// needs is what the status says. A status that is not known is as bad as the worst.
func (s TCBStatus) needs() int {
	switch s {
	case UpToDate:
		return 0
	case SWHardeningNeeded:
		return needsHardening
	case ConfigurationNeeded:
		return needsConfiguration
	case ConfigurationAndSWHardeningNeeded:
		return needsConfiguration | needsHardening
	case OutOfDate:
		return outdated
	case OutOfDateConfigurationNeeded:
		return outdated | needsConfiguration
	}
	return revoked
}

// merge is the status of a platform of two parts, or seen twice: what one of them needs the whole
// needs. It agrees with Intel's TDX DCAP Quote Verification Library, which has an outdated module
// or quoting enclave make the platform outdated. Intel has no name for outdated firmware that needs
// hardening of software, too: OutOfDate includes it.
func merge(a, b TCBStatus) TCBStatus {
	switch needs := a.needs() | b.needs(); {
	case needs&revoked != 0:
		return Revoked
	case needs&outdated != 0 && needs&needsConfiguration != 0:
		return OutOfDateConfigurationNeeded
	case needs&outdated != 0:
		return OutOfDate
	case needs == needsConfiguration|needsHardening:
		return ConfigurationAndSWHardeningNeeded
	case needs == needsConfiguration:
		return ConfigurationNeeded
	case needs == needsHardening:
		return SWHardeningNeeded
	}
	return UpToDate
}

// TCBResult is the firmware level of a platform.
type TCBResult struct {
	Status TCBStatus // of the whole
	// Platform and Module are those of both sets of module versions, if the quote has two.
	Platform TCBStatus
	Module   TCBStatus
	QE       TCBStatus
	// Date is the oldest date of the levels found: what Intel knew of by then is fixed.
	Date       time.Time
	Advisories []string // Intel's numbers, such as INTEL-SA-01036
	// EvaluationNumber is tcbEvaluationDataNumber of the TCB info.
	EvaluationNumber uint32
	// Exceptions are those of the verifier without which there were no level, in words.
	Exceptions []string
}

// TCBException takes one component of one kind of platform for good enough, whatever Intel's levels
// ask for: some genuine hosts report a version that no level goes down to.
type TCBException struct {
	FMSPC     [6]byte
	Component int   // of the SGX components, 1 to 16
	MinSVN    uint8 // a platform below it gets no exception
}

func (e TCBException) String() string {
	return fmt.Sprintf("FMSPC %X, component %d from %d on", e.FMSPC, e.Component, e.MinSVN)
}

// Platform is what a level is looked for.
type Platform struct {
	PCK        *PCK
	Quote      *TDQuote
	QE         *QEIdentity
	Exceptions []TCBException
}

// Evaluate finds the platform's level as Intel's algorithm does: the first level that all component
// versions of the PCK certificate, the PCE's version and the TDX module's versions reach; with it
// the level of the TDX module by its major version, and that of the quoting enclave.
//
// A quote with body "TD 1.5" has two sets of module versions, that of the guest's launch and that
// of now. Both must have a level, and what either of them needs the platform needs.
func (i *TCBInfo) Evaluate(p Platform) (*TCBResult, error) {
	r := &TCBResult{Status: UpToDate, Platform: UpToDate, Module: UpToDate, EvaluationNumber: i.EvaluationNumber}
	for _, versions := range [][]byte{p.Quote.TEETCBSVN, p.Quote.TEETCBSVN2} {
		if versions == nil {
			continue
		}
		if err := i.evaluate(p, versions, r); err != nil {
			return nil, err
		}
	}
	qe, err := levelOf(p.QE.levels, p.Quote.QE.SVN, "quoting enclave")
	if err != nil {
		return nil, err
	}
	r.add(qe)
	r.QE = qe.Status
	r.Status = merge(r.Status, r.QE)
	return r, nil
}

// evaluate adds to the result what one set of module versions gives.
func (i *TCBInfo) evaluate(p Platform, versions []byte, r *TCBResult) error {
	level, exceptions, err := i.level(p, versions)
	if err != nil {
		return err
	}
	module, err := i.moduleLevel(p.Quote, versions)
	if err != nil {
		return err
	}
	r.add(level.judgement)
	r.add(module)
	for _, e := range exceptions {
		if !slices.Contains(r.Exceptions, e) {
			r.Exceptions = append(r.Exceptions, e)
		}
	}
	r.Platform, r.Module = merge(r.Platform, level.Status), merge(r.Module, module.Status)
	r.Status = merge(r.Status, merge(r.Platform, r.Module))
	return nil
}

func (r *TCBResult) add(j judgement) {
	if r.Date.IsZero() || j.Date.Before(r.Date) {
		r.Date = j.Date
	}
	r.Advisories = append(r.Advisories, j.Advisories...)
	slices.Sort(r.Advisories)
	r.Advisories = slices.Compact(r.Advisories)
}

// level finds the platform's level, first without the verifier's exceptions.
func (i *TCBInfo) level(p Platform, versions []byte) (*tcbLevel, []string, error) {
	if l := i.find(p.PCK.Components, p.PCK.PCESVN, versions); l != nil {
		return l, nil, nil
	}
	components, used := p.PCK.Components, []string(nil)
	for _, e := range p.Exceptions {
		if e.Component < 1 || e.Component > Components || e.FMSPC != p.PCK.FMSPC || p.PCK.Components[e.Component-1] < e.MinSVN {
			continue
		}
		components[e.Component-1] = 0xff
		used = append(used, e.String())
	}
	if l := i.find(components, p.PCK.PCESVN, versions); l != nil {
		return l, used, nil
	}
	return nil, nil, fmt.Errorf("the platform is at no TCB level that Intel knows: components %s, PCE %d, TDX module %x; %s",
		decimal(p.PCK.Components), p.PCK.PCESVN, versions, i.nearest(p.PCK))
}

// find returns the first level that the versions reach. For TDX modules of major version 1 and
// above, the first two module versions are a matter of the module's own identity.
func (i *TCBInfo) find(components [Components]uint8, pce uint16, module []byte) *tcbLevel {
	from := 0
	if moduleMajor(module) > 0 {
		from = 2
	}
	for n := range i.levels {
		l := &i.levels[n]
		if pce >= l.PCESVN && reaches(components[:], l.SGX[:]) && reaches(module[from:], l.TDX[from:]) {
			return l
		}
	}
	return nil
}

func reaches(have, want []byte) bool {
	for i := range want {
		if have[i] < want[i] {
			return false
		}
	}
	return true
}

// nearest says which component is below the lowest level, for an operator who wonders.
func (i *TCBInfo) nearest(p *PCK) string {
	lowest := i.levels[len(i.levels)-1]
	var below []string
	for c := range p.Components {
		if p.Components[c] < lowest.SGX[c] {
			below = append(below, fmt.Sprintf("component %d is %d, the lowest level has %d", c+1, p.Components[c], lowest.SGX[c]))
		}
	}
	if below == nil {
		return "no component is below the lowest level by itself"
	}
	return strings.Join(below, "; ")
}

func decimal(components [Components]uint8) string { return strings.Trim(fmt.Sprint(components), "[]") }

// moduleMajor and moduleMinor are the two versions of the TDX module in tee_tcb_svn.
func moduleMajor(versions []byte) uint8 { return versions[1] }
func moduleMinor(versions []byte) uint8 { return versions[0] }

// moduleLevel checks that the TDX module is Intel's, and finds its level. Modules of major version
// 0 have none of their own: the platform's level covers them.
func (i *TCBInfo) moduleLevel(q *TDQuote, versions []byte) (judgement, error) {
	identity, none := &i.module, judgement{Status: UpToDate, Date: i.Issued}
	if major := moduleMajor(versions); major > 0 {
		id := "TDX_" + strings.ToUpper(hex.EncodeToString([]byte{major}))
		n := slices.IndexFunc(i.modules, func(m moduleIdentity) bool { return m.id == id })
		if n < 0 {
			return none, fmt.Errorf("the TCB info knows no TDX module %s", id)
		}
		identity = &i.modules[n]
	}
	attributes := binary.LittleEndian.AppendUint64(nil, q.SEAMAttributes)
	if !bytes.Equal(q.MRSignerSEAM, identity.mrSigner) || !maskedEqual(attributes, identity.attributes, identity.attributesMask) {
		return none, errors.New("the TDX module is not signed as Intel's are, or has other attributes")
	}
	if moduleMajor(versions) == 0 {
		return none, nil
	}
	return levelOf(identity.levels, uint16(moduleMinor(versions)), "TDX module")
}

// levelOf returns the first level that a version reaches.
func levelOf(levels []svnLevel, version uint16, what string) (judgement, error) {
	for _, l := range levels {
		if version >= l.svn {
			return l.judgement, nil
		}
	}
	return judgement{}, fmt.Errorf("%s of version %d is at no TCB level that Intel knows", what, version)
}
