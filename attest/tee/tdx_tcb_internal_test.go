package tee

import (
	"slices"
	"testing"
	"time"
)

// twice is a quote with body "TD 1.5" of a module whose major version is 0; the third of its
// versions is one at launch and another now.
func twice(atLaunch, now uint8) *TDQuote {
	q := &TDQuote{}
	q.MRSignerSEAM = make([]byte, 48)
	q.TEETCBSVN, q.TEETCBSVN2 = make([]byte, Components), make([]byte, Components)
	q.TEETCBSVN[2], q.TEETCBSVN2[2] = atLaunch, now
	return q
}

func levelFor(component8, third uint8, s TCBStatus) tcbLevel {
	l := tcbLevel{judgement: judgement{Status: s, Date: time.Unix(1, 0)}}
	l.SGX[7], l.TDX[2] = component8, third
	return l
}

func infoOf(levels ...tcbLevel) *TCBInfo {
	module := moduleIdentity{mrSigner: make([]byte, 48), attributes: make([]byte, 8), attributesMask: make([]byte, 8)}
	return &TCBInfo{levels: levels, module: module}
}

func currentQE() *QEIdentity {
	return &QEIdentity{levels: []svnLevel{{judgement: judgement{Status: UpToDate}}}}
}

// TestAnExceptionOfEitherSetOfVersionsIsNamed: one set may need it and the other not.
func TestAnExceptionOfEitherSetOfVersionsIsNamed(t *testing.T) {
	t.Parallel()
	info := infoOf(levelFor(2, 9, UpToDate), levelFor(3, 1, UpToDate))
	exception := TCBException{Component: 8, MinSVN: 2}
	for name, tt := range map[string]struct {
		atLaunch, now uint8
		want          []string
	}{
		"that of the launch": {1, 9, []string{exception.String()}},
		"that of now":        {9, 1, []string{exception.String()}},
		"both":               {1, 1, []string{exception.String()}},
		"neither":            {9, 9, nil},
	} {
		pck := &PCK{}
		pck.Components[7] = 2
		got, err := info.Evaluate(Platform{PCK: pck, Quote: twice(tt.atLaunch, tt.now), QE: currentQE(), Exceptions: []TCBException{exception}})
		if err != nil || got.Status != UpToDate || !slices.Equal(got.Exceptions, tt.want) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

// TestThePlatformNeedsWhatEitherSetOfVersionsNeeds, so that a policy which accepts one need does
// not accept another with it.
func TestThePlatformNeedsWhatEitherSetOfVersionsNeeds(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ a, b, want TCBStatus }{
		{UpToDate, UpToDate, UpToDate},
		{UpToDate, SWHardeningNeeded, SWHardeningNeeded},
		{ConfigurationNeeded, SWHardeningNeeded, ConfigurationAndSWHardeningNeeded},
		{ConfigurationNeeded, ConfigurationNeeded, ConfigurationNeeded},
		{ConfigurationAndSWHardeningNeeded, SWHardeningNeeded, ConfigurationAndSWHardeningNeeded},
		{OutOfDate, UpToDate, OutOfDate},
		{OutOfDate, SWHardeningNeeded, OutOfDate},
		{OutOfDate, ConfigurationNeeded, OutOfDateConfigurationNeeded},
		{OutOfDate, ConfigurationAndSWHardeningNeeded, OutOfDateConfigurationNeeded},
		{OutOfDateConfigurationNeeded, SWHardeningNeeded, OutOfDateConfigurationNeeded},
		{Revoked, UpToDate, Revoked},
		{"of no standard", UpToDate, Revoked},
	} {
		info := infoOf(levelFor(0, 9, tt.a), levelFor(0, 0, tt.b))
		for _, q := range []*TDQuote{twice(9, 0), twice(0, 9)} {
			got, err := info.Evaluate(Platform{PCK: &PCK{}, Quote: q, QE: currentQE()})
			if err != nil || got.Status != tt.want || got.Platform != tt.want || got.Module != UpToDate {
				t.Errorf("%s and %s: %+v, %v; want %s", tt.a, tt.b, got, err, tt.want)
			}
		}
	}
}

// TestTheModuleIsAsBadAsEitherSetOfVersions: each may be of another module.
func TestTheModuleIsAsBadAsEitherSetOfVersions(t *testing.T) {
	t.Parallel()
	info := infoOf(levelFor(0, 0, ConfigurationNeeded))
	old := info.module
	old.id = "TDX_01"
	old.levels = []svnLevel{{judgement: judgement{Status: OutOfDate, Date: time.Unix(1, 0)}}}
	info.modules = []moduleIdentity{old}
	for at := range 2 {
		q := twice(0, 0)
		[][]byte{q.TEETCBSVN, q.TEETCBSVN2}[at][1] = 1
		got, err := info.Evaluate(Platform{PCK: &PCK{}, Quote: q, QE: currentQE()})
		if err != nil || got.Module != OutOfDate || got.Status != OutOfDateConfigurationNeeded {
			t.Errorf("set %d: %+v, %v", at+1, got, err)
		}
	}
}
