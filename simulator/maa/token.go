package maa

import (
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"slices"

	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/uuid"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/tee"
)

// policyText stands for the instance's attestation policy; its hash is in every token.
const policyText = "keyagent simulator: attest.DefaultPolicy with ak.certificate required"

// token makes the attestation token for evidence that was verified.
func (s *Server) token(info *attestationInfo, evidence *attest.Evidence, result *attest.Result) (string, error) {
	runtime, err := runtimeClaims(info, result)
	if err != nil {
		return "", err
	}
	isolation, err := isolationClaims(evidence, result)
	if err != nil {
		return "", err
	}
	claims := vmClaims(info, result)
	maps.Copy(claims, s.registeredClaims())
	claims["x-ms-runtime"] = runtime
	claims["x-ms-isolation-tee"] = isolation
	token, err := jwt.Signed(s.signer).Claims(claims).Serialize()
	if err != nil {
		return "", fmt.Errorf("signing the attestation token: %w", err)
	}
	return token, nil
}

func (s *Server) registeredClaims() map[string]any {
	now := s.cfg.Now()
	hash := sha256.Sum256([]byte(policyText))
	return map[string]any{
		"iss": s.cfg.BaseURL, "jti": uuid.NewString(),
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(TokenLife).Unix(),
		"x-ms-ver":         "1.0",
		"x-ms-policy-hash": base64.RawURLEncoding.EncodeToString(hash[:]),
	}
}

// vmClaims are about the guest. Except for vmid and PCRs they are what the guest says of itself.
func vmClaims(info *attestationInfo, result *attest.Result) map[string]any {
	return map[string]any{
		"x-ms-attestation-type":                 "azurevm",
		"x-ms-azurevm-attestation-protocol-ver": info.ProtocolVersion,
		"x-ms-azurevm-attested-pcrs":            slices.Sorted(maps.Keys(result.PCRs)),
		"x-ms-azurevm-vmid":                     result.VMID,
		"x-ms-azurevm-is-windows":               false,
		"x-ms-azurevm-ostype":                   string(info.OSType),
		"x-ms-azurevm-osdistro":                 string(info.OSDistro),
		"x-ms-azurevm-osbuild":                  string(info.OSBuild),
		"x-ms-azurevm-osversion-major":          info.OSVersionMajor,
		"x-ms-azurevm-osversion-minor":          info.OSVersionMinor,
	}
}

// runtimeClaims list the keys that the service has seen certified, and repeat the client's payload.
func runtimeClaims(info *attestationInfo, result *attest.Result) (any, error) {
	binding, ok := result.PublicKey.(*rsa.PublicKey)
	if !ok {
		return nil, errors.New("attestation token: the binding key is not an RSA key")
	}
	transport, err := publicKey(info.TpmInfo.EncKeyPub)
	if err != nil {
		return nil, err
	}
	payload := map[string]string{}
	for name, value := range info.ClientPayload {
		payload[name] = base64.StdEncoding.EncodeToString(value)
	}
	return map[string]any{
		"client-payload": payload,
		"keys":           []any{jwk("TpmEphemeralEncryptionKey", "encrypt", transport), jwk("BindingKey", "sign", binding)},
	}, nil
}

func jwk(id, operation string, key *rsa.PublicKey) any {
	return map[string]any{
		"kid": id, "kty": "RSA", "key_ops": []string{operation},
		"n": base64.RawURLEncoding.EncodeToString(key.N.Bytes()),
		"e": base64.RawURLEncoding.EncodeToString(big.NewInt(int64(key.E)).Bytes()),
	}
}

// isolationClaims are what the processor vouches for. The service repeats the runtime claims with
// their members sorted, as any map is encoded.
func isolationClaims(evidence *attest.Evidence, result *attest.Result) (any, error) {
	var runtime map[string]any
	if err := json.Unmarshal(evidence.RuntimeClaims, &runtime); err != nil {
		return nil, fmt.Errorf("attestation token: runtime claims: %w", err)
	}
	claims := map[string]any{"x-ms-compliance-status": "azure-compliant-cvm", "x-ms-runtime": runtime}
	if result.TDX != nil {
		maps.Copy(claims, tdxClaims(result.TDX, result.TCB))
	} else {
		maps.Copy(claims, snpClaims(result.SNP))
	}
	return claims, nil
}

func tdxClaims(q *tee.TDQuote, level *tee.TCBResult) map[string]any {
	return map[string]any{
		"x-ms-attestation-type": "tdxvm",
		"attester_tcb_status":   string(level.Status),
		"tdx_mrtd":              hex.EncodeToString(q.MRTD),
		"tdx_mrseam":            hex.EncodeToString(q.MRSEAM),
		"tdx_report_data":       hex.EncodeToString(q.ReportData),
		"tdx_tee_tcb_svn":       hex.EncodeToString(q.TEETCBSVN),
		"tdx_td_attributes":     hex.EncodeToString(binary.LittleEndian.AppendUint64(nil, q.Attributes)),
	}
}

func snpClaims(r *tee.SNPReport) map[string]any {
	tcb := uint64(r.ReportedTCB) // Milan and Genoa: boot loader, TEE, four reserved, SNP firmware, microcode
	return map[string]any{
		"x-ms-attestation-type":           "sevsnpvm",
		"x-ms-sevsnpvm-authorkeydigest":   hex.EncodeToString(r.AuthorKeyDigest),
		"x-ms-sevsnpvm-bootloader-svn":    byte(tcb),
		"x-ms-sevsnpvm-tee-svn":           byte(tcb >> 8),
		"x-ms-sevsnpvm-snpfw-svn":         byte(tcb >> 48),
		"x-ms-sevsnpvm-microcode-svn":     byte(tcb >> 56),
		"x-ms-sevsnpvm-guestsvn":          r.GuestSVN,
		"x-ms-sevsnpvm-idkeydigest":       hex.EncodeToString(r.IDKeyDigest),
		"x-ms-sevsnpvm-launchmeasurement": hex.EncodeToString(r.Measurement),
		"x-ms-sevsnpvm-reportdata":        hex.EncodeToString(r.ReportData),
		"x-ms-sevsnpvm-is-debuggable":     r.DebugAllowed(),
		"x-ms-sevsnpvm-migration-allowed": r.MigrationAllowed(),
		"x-ms-sevsnpvm-smt-allowed":       r.SMTAllowed(),
		"x-ms-sevsnpvm-vmpl":              r.VMPL,
	}
}
