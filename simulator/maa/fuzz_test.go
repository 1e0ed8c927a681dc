package maa_test

import (
	"encoding/base64"
	"testing"

	"github.com/keyagent/keyagent/simulator/maa"
)

func FuzzParseRequest(f *testing.F) {
	f.Add([]byte(`{"AttestationProtocolVersion":"2.0","OSType":"TGludXg=","OSDistro":"eA==","OSBuild":"eA==","TcgLogs":"",` +
		`"ClientPayload":{"nonce":"eA=="},"TpmInfo":{"AikPub":"AAE=","PcrSet":[0],"PCRs":[{"Index":0,"Digest":"eA=="}]},` +
		`"IsolationInfo":{"Type":"SevSnp","Evidence":{"Proof":"e30=","RunTimeData":"e30="}}}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(_ *testing.T, inner []byte) {
		// Refusals are as good as acceptance here: nothing may panic.
		_ = maa.ParseRequest([]byte(`{"AttestationInfo":"` + base64.RawURLEncoding.EncodeToString(inner) + `"}`))
	})
}
