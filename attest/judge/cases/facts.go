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

// checkFacts returns every fact that was not read as the case says.
func checkFacts(want map[string]map[string]any, p *parts, r *attest.Result) []string {
	var problems []string
	for _, name := range slices.Sorted(maps.Keys(want)) {
		read, known := readers()[name]
		if !known {
			problems = append(problems, fmt.Sprintf("facts about %.40q are not known", name))
			continue
		}
		got, err := read(p, r)
		if err != nil {
			problems = append(problems, fmt.Sprintf("facts about %s cannot be read: %v", name, err))
			continue
		}
		problems = append(problems, got.compare(name, want[name])...)
	}
	return problems
}

func (g group) compare(name string, want map[string]any) []string {
	var problems []string
	for _, fact := range slices.Sorted(maps.Keys(want)) {
		got, known := g[fact]
		switch {
		case !known:
			problems = append(problems, fmt.Sprintf("fact %s.%.60s is not known here, or is not in the evidence", name, fact))
		case !agrees(got, want[fact]):
			problems = append(problems, fmt.Sprintf("fact %s.%s is %s, expected %v", name, fact, shown(got), want[fact]))
		}
	}
	return problems
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
