package azcred

var TenantOf = tenantOf
