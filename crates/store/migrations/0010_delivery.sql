-- How config and secret values reach instances: "env", "secret_files" or "files".
alter table service add column delivery text not null default '"env"';
