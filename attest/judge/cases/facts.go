package cases

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/keyagent/keyagent/attest"
)

// group is one group of facts: their values by name. A value that was not there is left out.
type group map[string]any

// prefix is a value of which a fact names the first bytes.
type prefix []byte

// reader reads a group of facts from a case. It returns an error if its part could not be read.
type reader func(p *parts, r *attest.Result) (group, error)

func readers() map[string]reader {
	return map[string]reader{
		"hcl": hclFacts, "claims": claimsFacts, "quote": quoteFacts, "certify": certifyFacts,
		"snp": snpFacts, "tdx": tdxFacts,
		"ak_certificate": akCertificateFacts, "ak_cert": akCertificateFacts,
	}
}

// compareFacts compares the facts that the verifier has read with those that the case expects. It
// reports facts that this program does not know.
func (o *Outcome) compareFacts(want map[string]map[string]any, p *parts, r *attest.Result) {
	for _, name := range slices.Sorted(maps.Keys(want)) {
		read, known := readers()[name]
		if !known {
			o.note("facts about %.40q are not known, and were not compared", name)
			continue
		}
		got, err := read(p, r)
		if err != nil {
			o.problem("facts about %s cannot be read: %v", name, err)
			continue
		}
		o.compareGroup(name, want[name], got)
	}
}

func (o *Outcome) compareGroup(name string, want map[string]any, got group) {
	for _, fact := range slices.Sorted(maps.Keys(want)) {
		value, known := got[fact]
		switch {
		case !known:
			o.note("fact %s.%.60s is not known or not in the evidence, and was not compared", name, fact)
		case !agrees(value, want[fact]):
			o.problem("fact %s.%s is %s, expected %v", name, fact, shown(value), want[fact])
		}
	}
}

// agrees compares a value as it was read with one from a file of cases. Bytes are written in
// hexadecimal there, and numbers in decimal or in hexadecimal.
func agrees(got, want any) bool {
	switch got := got.(type) {
	case prefix:
		s, ok := want.(string)
		return ok && s != "" && strings.HasPrefix(hex.EncodeToString(got), strings.ToLower(s))
	case []byte:
		s, ok := want.(string)
		return ok && strings.EqualFold(hex.EncodeToString(got), s)
	case time.Time:
		s, ok := want.(string)
		return ok && (got.UTC().Format(time.DateOnly) == s || got.UTC().Format(time.RFC3339) == s)
	case bool:
		return want == any(got)
	case string:
		return want == any(got)
	case json.Number:
		return want == any(got)
	case []any:
		list, ok := want.([]any)
		return ok && slices.EqualFunc(got, list, agrees)
	case map[string]any:
		return contains(got, want)
	}
	return number(got, want)
}

// contains reports whether a document has all members that a fact names, with their values.
func contains(got map[string]any, want any) bool {
	members, ok := want.(map[string]any)
	if !ok {
		return false
	}
	for name, value := range members {
		if have, there := got[name]; !there || !agrees(have, value) {
			return false
		}
	}
	return true
}

// number compares an integer with its spelling.
func number(got, want any) bool {
	have, ok := new(big.Int).SetString(fmt.Sprintf("%d", got), 10)
	if !ok {
		return false
	}
	var wanted *big.Int
	switch want := want.(type) {
	case json.Number:
		wanted, ok = new(big.Int).SetString(want.String(), 10)
	case string:
		digits, hexadecimal := strings.CutPrefix(want, "0x")
		if !hexadecimal && len(want) != 16 {
			return false
		}
		wanted, ok = new(big.Int).SetString(digits, 16)
	default:
		return false
	}
	return ok && have.Cmp(wanted) == 0
}

func shown(v any) string {
	switch v := v.(type) {
	case prefix:
		return hex.EncodeToString(v)
	case []byte:
		return hex.EncodeToString(v)
	case time.Time:
		return v.UTC().Format(time.RFC3339)
	}
	return fmt.Sprintf("%v", v)
}
