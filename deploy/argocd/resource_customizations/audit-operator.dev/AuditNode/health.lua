local hs = { status = "Progressing", message = "Waiting for the agent" }
if obj.status == nil or obj.status.conditions == nil then
  return hs
end
-- What is said of an older spec is no word about this one.
if obj.status.observedGeneration ~= obj.metadata.generation then
  return hs
end

-- The reasons that do not pass by themselves.
local needs_a_person = {
  BundleUnreadable = true,
  ManifestUnreadable = true,
  ManifestRefused = true,
  PolicyRefused = true,
  PreflightFailed = true,
  InstallRefused = true,
  RolledBack = true,
  InstallFailed = true,
  RehearsalFailed = true,
  InstallerMissing = true,
  DiskBudget = true,
  ProofMissing = true,
}
for _, condition in ipairs(obj.status.conditions) do
  local counts = condition.type == "Ready" or condition.type == "Proven"
  if counts and condition.status ~= "True" and needs_a_person[condition.reason] then
    hs.status = "Degraded"
    hs.message = condition.reason .. ": " .. condition.message
    return hs
  end
end
for _, condition in ipairs(obj.status.conditions) do
  if condition.type == "Ready" then
    hs.message = condition.message
    if condition.status == "True" then
      hs.status = "Healthy"
    end
  end
end
return hs
